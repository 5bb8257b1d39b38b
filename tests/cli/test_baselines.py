from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dae.cli import app
from dae.evaluation.classical import BM3D
from dae.extensions import BASELINES
from dae.networks import unet
from dae.tracking import log_model
from dae.tracking.client import connect, experiment_id

TINY = "data.limit=300", "data.validation=60", "data.test_limit=60"
SIZES = "--images", "16", "--tune", "16", "--bm3d-images", "8", "--bm3d-tune", "8"


def dae(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def baselines(*arguments: str, settings: tuple[str, ...] = TINY) -> tuple[int, str, str]:
    return dae("baselines", *SIZES, *[part for value in settings for part in ("--set", value)], *arguments)


@pytest.fixture
def logged_model(mlflow_store: Path) -> str:
    """Return the id of a run with an untrained network as the model ``dae``."""
    import numpy as np

    client = connect()
    run = client.create_run(experiment_id(client, "denoising"), run_name="untrained")
    model = unet.build_unet((28, 28, 1), width=4, deep_width=4, blocks=1, deep_blocks=1)
    log_model.log_model(run.info.run_id, model, np.zeros((1, 28, 28, 1), np.float32), "dae")
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


@pytest.mark.slow
def test_methods_stand_beside_a_model_and_are_runs(logged_model: str) -> None:
    code, out, err = baselines("--methods", "noisy_input,median", "--model", logged_model)
    assert code == 0, err
    for said in ("noisy_input", "median, oracle", f"model {logged_model}", "images/s", "size 3"):
        assert said in out
    code, out, _ = dae("runs", "--json", "--experiment", "denoising")
    runs = {run["name"]: run for run in json.loads(out)}
    assert set(runs) == {"mnist-noisy_input", "mnist-median", "mnist-median-oracle", "untrained"}
    assert 0 < runs["mnist-median"]["test_mse"] < runs["mnist-noisy_input"]["test_mse"]
    assert runs["mnist-median"]["verdict"] is None
    assert "mnist-median" in dae("runs")[1]


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow_store")
def test_bm3d_is_scored_on_fewer_images_with_nothing_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bm3d")
    grid = BM3D.grid()[-1:]
    monkeypatch.setattr(BM3D, "grid", lambda: grid)  # it takes a second an image
    code, out, err = baselines("--methods", "noisy_input,bm3d", "--markdown")
    assert code == 0, err
    assert out.startswith("Test MSE, noise as drawn:\n\n| method | images |")
    lines = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    for first in (2, 7):
        (one, many), (two, few), (three, beside) = (line[:2] for line in lines[first : first + 3])
        assert (one, two, three) == ("| noisy_input", "| bm3d", "| noisy_input")
        assert int(many) > int(few) == int(beside)
    assert "ingest" not in out


@pytest.mark.usefixtures("mlflow_store")
def test_without_bm3d_the_others_are_made_and_a_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    monkeypatch.setitem(sys.modules, "pywt", None)
    for name in ("tv", "nlm"):
        method = BASELINES.load(name)
        monkeypatch.setattr(method, "grid", partial(tuple, method.grid()[:2]))
    code, out, err = baselines()
    assert code == 0, err
    assert "bm3d: left out, its package is not installed" in err
    assert "nlm" in out
    assert "wavelet" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "magic"), "--methods must be among noisy_input, median, tv, nlm, wavelet, bm3d, received magic"),
        (("--images", "0"), "greater than or equal to 1"),
        (("--tune", "0"), "greater than or equal to 1"),
        (("--set", "noise.kind=1"), "noise.kind: unknown key"),
    ],
)
def test_bad_usage_exits_2(arguments: tuple[str, ...], message: str) -> None:
    code, _, err = baselines(*arguments)
    assert code == 2
    assert message in " ".join(err.split())


def test_a_missing_package_that_was_asked_for_exits_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    code, _, err = baselines("--methods", "bm3d")
    assert code == 2
    assert "non-profit use alone" in err


def test_a_model_of_other_channels_and_one_that_is_not_there_are_refused(logged_model: str) -> None:
    colour = ("data.source=photographs", "data.validation=200")
    code, _, err = baselines("--methods", "noisy_input", "--model", logged_model, settings=colour)
    assert code == 2
    assert "--model must take images of shape (64, 64, 3), received one for (None, None, 1)" in err
    code, _, err = baselines("--methods", "noisy_input", "--model", "7")
    assert code == 1
    assert "dae" in err
