"""Reproduction: what agrees, which code trains, and a run made again."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from dae import storage
from dae.cli import app
from dae.config import loading
from dae.config.schema import ConfigError, PipelineConfig
from dae.data import datasets
from dae.data.arrays import DataError
from dae.maintenance import compare_runs, reproduce, rerun
from dae.maintenance.compare_runs import environment_differences
from dae.maintenance.rerun import RerunError, SourceCode
from dae.promotion import registry
from dae.schemas import ImageSets
from dae.tracking import runs
from dae.tracking.client import TrackingError, connect, experiment_id
from dae.tracking.run_logging import log_metrics, set_tags
from dae.tracking.runs import find_run, open_run, read_run

ROOT = Path(__file__).parents[2]
TINY = ["data.limit=300", "data.validation=60", "data.test_limit=120", "train.epochs=1", "model.width=8"]
NEEDS_GIT = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
NAN = math.nan


def dae(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


# What agrees


@pytest.mark.parametrize(
    ("recorded", "found", "tolerance", "agrees"),
    [
        (0.01, 0.01, 0, True),
        (0.01, math.nextafter(0.01, 1), 0, False),
        (0.01, 0.0101, 0.01, True),
        (0.01, 0.0099, 0.01, True),
        (0.01, 0.010101, 0.01, False),
        (0.01, 0.009899, 0.01, False),
        (0.01, 0.02, 1, True),
        (0.0, 0.0, 0, True),
        (0.0, 1e-300, 0.5, False),
        (NAN, NAN, 1, False),
        (0.01, NAN, 1, False),
        (NAN, 0.01, 1, False),
        (math.inf, math.inf, 1, False),
        (0.01, math.inf, 1, False),
    ],
)
def test_a_score_agrees_within_the_tolerance_relative_to_the_recorded_one(
    recorded: float, found: float, tolerance: float, agrees: bool
) -> None:
    (score,) = compare_runs.compare_scores({"test_mse": recorded}, {"test_mse": found}, tolerance)
    assert score.agrees is agrees
    finite = math.isfinite(recorded) and math.isfinite(found) and recorded > 0
    assert score.difference == (found / recorded - 1 if finite else 0 if agrees else None)


def test_a_score_that_one_side_lacks_does_not_agree() -> None:
    found = compare_runs.compare_scores(
        {"test_mse": 0.1, "val_mse_poisson": 0.1}, {"test_mse": 0.1, "test_mse_poisson": 0.1}, 1
    )
    assert {each.name: each.agrees for each in found} == {
        "val_mse_poisson": False,
        "test_mse": True,
        "test_mse_poisson": False,
    }


def test_scores_are_the_errors_of_the_model_not_its_curve_nor_those_of_doing_nothing() -> None:
    kept = {"best_val_mse", "test_mse", "val_mse_poisson", "test_mse_poisson"}
    others = {"val_mse", "val_mse_nothing", "test_mse_poisson_nothing", "test_psnr", "train_loss", "seconds_train"}
    assert runs.model_errors(dict.fromkeys(kept | others, 0.1)).keys() == kept


@pytest.mark.parametrize("tolerance", [-0.01, NAN, math.inf])
def test_what_is_no_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        compare_runs.require_tolerance(tolerance)


# The configuration, and the code


def test_the_configuration_is_the_recorded_one_but_for_names_and_a_gate_that_does_nothing() -> None:
    config = loading.load(None, ["gate.force=because", "gate.beat_baselines=[median]", "tracking.resume=abc"])
    tree = config.model_dump(mode="json")
    changed = rerun.make_rerun_config(tree, "again", "dae-again")
    again = loading.validate(changed)
    assert (again.tracking.run_name, again.tracking.model_name, again.tracking.resume) == ("again", "dae-again", None)
    assert again.tracking.experiment == config.tracking.experiment
    assert (again.gate.dry_run, again.gate.force, again.gate.smoke_test, again.gate.beat_baselines) == (
        True,
        None,
        None,
        (),
    )
    assert again.model_dump(exclude={"gate", "tracking"}) == config.model_dump(exclude={"gate", "tracking"})
    assert tree == config.model_dump(mode="json")


def test_a_gate_of_former_times_is_given_no_key_it_does_not_know() -> None:
    gate = {"max_val_mse": 0.01, "beat_nothing": True}
    assert rerun.make_rerun_config({"gate": gate}, "again", "dae-again")["gate"] == gate


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


TELLS = """
import json, os, pathlib, sys, time, yaml
import dae
config = yaml.safe_load(pathlib.Path(sys.argv[-1]).read_text())
names = ("DAE_HOME", "MLFLOW_TRACKING_URI", "KERAS_BACKEND")
told = {"file": dae.__file__, "says": dae.SAYS, "argv": sys.argv[1:-1], "cwd": os.getcwd()}
print(json.dumps(told | {name: os.environ[name] for name in names}), flush=True)
time.sleep(config["sleep"])
sys.exit(config["code"])
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository the package seems to lie in; its ``dae train`` tells where it runs. It has two commits."""
    folder = tmp_path / "repository"
    (folder / "dae" / "cli").mkdir(parents=True)
    (folder / "dae" / "cli" / "__init__.py").write_text("")
    (folder / "dae" / "cli" / "__main__.py").write_text(TELLS)
    git(folder, "init")
    for says in ("first", "second"):
        (folder / "dae" / "__init__.py").write_text(f"SAYS = '{says}'\n")
        git(folder, "add", ".")
        git(folder, "commit", "-m", says)
    monkeypatch.setattr(storage, "PACKAGE_ROOT", folder)
    return folder


@NEEDS_GIT
def test_the_code_is_that_of_the_commit_wherever_it_is(repository: Path) -> None:
    first, second = git(repository, "rev-parse", "HEAD~1"), git(repository, "rev-parse", "HEAD")
    assert rerun.choose_code(second, here=False).commit is None
    assert rerun.choose_code(first, here=False).commit == first
    assert rerun.choose_code(first, here=True) == SourceCode(
        commit=None, note=f"the present code, as asked, at {second[:8]}; the run was made at {first[:8]}"
    )
    missing, unknown = rerun.choose_code("f" * 40, here=False), rerun.choose_code("unknown", here=False)
    assert (missing.commit, unknown.commit) == (None, None)
    assert "commit ffffffff is not in this repository" in missing.note
    assert "not known" in unknown.note
    (repository / "new.py").write_text("")
    assert rerun.choose_code(second, here=False).commit == second
    assert "with changes" in rerun.choose_code("f" * 40, here=False).note


def test_outside_a_checkout_it_is_the_present_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PACKAGE_ROOT", tmp_path)
    found = rerun.choose_code("a" * 40, here=False)
    assert (found.commit, "no checkout" in found.note) == (None, True)


def told(chosen: SourceCode, **config: Any) -> dict[str, Any]:
    output = StringIO()
    rerun.run_training({"sleep": 0, "code": 0} | config, chosen, {"keras_backend": "jax"}, output)
    return dict(json.loads(output.getvalue()))


@NEEDS_GIT
@pytest.mark.parametrize("code", [0, 10])
def test_a_commit_trains_in_a_worktree_with_its_own_package_and_the_present_store(
    repository: Path, home: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # whose package the installed one is, too
    first = git(repository, "rev-parse", "HEAD~1")
    found = told(SourceCode(commit=first, note=""), code=code)
    assert found["says"] == "first"
    assert found["file"].startswith(found["cwd"])
    assert not Path(found["cwd"]).exists()
    assert found["argv"] == ["train", "--config"]
    assert (found["DAE_HOME"], found["KERAS_BACKEND"]) == (str(home), "jax")
    assert found["MLFLOW_TRACKING_URI"] == f"sqlite:///{home}/mlruns/mlflow.db"
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@NEEDS_GIT
def test_the_present_code_trains_where_it_is(repository: Path) -> None:
    found = told(SourceCode(commit=None, note=""))
    assert (found["says"], found["cwd"]) == ("second", str(repository))


@NEEDS_GIT
def test_a_training_that_fails_leaves_no_worktree(repository: Path) -> None:
    with pytest.raises(RerunError, match="exit code 3"):
        told(SourceCode(commit=git(repository, "rev-parse", "HEAD~1"), note=""), code=3)
    with pytest.raises(RerunError, match="cannot check out"):
        told(SourceCode(commit="f" * 40, note=""))
    assert len(git(repository, "worktree", "list").splitlines()) == 1


STOPPED = """
import sys
from pathlib import Path
from dae import storage
from dae.maintenance import rerun
storage.PACKAGE_ROOT = Path(sys.argv[1])
code = rerun.SourceCode(commit=sys.argv[2], note="")
rerun.run_training({"sleep": 600, "code": 0}, code, {"keras_backend": "jax"}, sys.stdout)
"""


@NEEDS_GIT
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_is_stopped_leaves_no_worktree_and_no_process(repository: Path, number: signal.Signals) -> None:
    commit = git(repository, "rev-parse", "HEAD~1")
    command = [sys.executable, "-c", STOPPED, str(repository), commit]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["says"] == "first"
        process.send_signal(number)
        try:
            process.communicate(timeout=60)  # the training would hold the pipe for ten minutes
        finally:
            process.kill()
    assert process.returncode != 0
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:///b.db", "sqlite:///{here}/b.db"),
        ("runs/there", "{here}/runs/there"),
        ("postgresql+psycopg2://u@h/mlflow", "postgresql+psycopg2://u@h/mlflow"),
    ],
)
def test_the_address_of_the_store_means_the_same_in_the_worktree(
    uri: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert rerun.training_environment(tmp_path, {})["MLFLOW_TRACKING_URI"] == expected.format(here=tmp_path)


# A run made again, without training


SCORES = {"best_val_mse": 0.01, "test_mse": 0.02, "val_mse_poisson": 0.03, "test_mse_poisson": 0.04, "test_psnr": 20.0}


def images(home: Path) -> str:
    np.save(home / "images.npy", np.random.default_rng(0).integers(0, 255, (60, 9, 9), np.uint8))
    return f"data.source={home / 'images.npy'}"


def config(home: Path, *settings: str) -> PipelineConfig:
    return loading.load(None, [images(home), "data.validation=10", "data.test=10", *settings])


def trained(given: PipelineConfig, scores: Mapping[str, float] = SCORES, noise: str = "n" * 64) -> str:
    """Make a run as the flow would, without training."""
    with open_run(given, "none") as run_id:
        found = datasets.ingest(given.data)
        log_inputs(run_id, found, noise)
        log_metrics(run_id, scores)
        name = given.tracking.model_name
        registry._ensure_model(name)
        created = connect().create_model_version(name, "file:///nowhere", run_id)
        registry.set_alias(name, "challenger", str(created.version))
        set_tags(run_id, {"model_version": "1", "verdict": "promoted"})
    return run_id


def log_inputs(run_id: str, found: ImageSets, noise: str) -> None:
    tags = {"data_digest": found.digest, "noise_digest.validation": noise, "noise_digest.test": noise}
    set_tags(run_id, tags)


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the second training finds: its scores, and the digest of its noise."""
    found: dict[str, Any] = {"scores": SCORES, "noise": "n" * 64}

    def train(tree: Mapping[str, Any], chosen: SourceCode, machine: Mapping[str, Any], output: IO[str]) -> None:
        output.write("training\n")
        trained(loading.validate(tree), found["scores"], found["noise"])

    monkeypatch.setattr(rerun, "run_training", train)
    return found


@pytest.mark.usefixtures("mlflow_store")
def test_a_reproduction_is_a_run_beside_the_first_and_touches_no_model(home: Path, second: dict[str, Any]) -> None:
    run_id = trained(config(home))
    registry.set_alias("dae", "champion", "1")
    code, out, err = dae("reproduce", run_id[:9])
    assert code == 0, err
    assert out.splitlines()[-1] == "Reproduced: every score within 1%."
    client = connect()
    experiment = client.get_experiment_by_name("denoising")
    assert experiment is not None
    again, first = client.search_runs([experiment.experiment_id])
    assert first.info.run_id == run_id
    assert again.info.run_name == f"reproduction of {run_id[:8]}"
    assert again.data.tags["dae.reproduces"] == run_id
    assert again.data.tags["dae.reproduction"] == "Reproduced: every score within 1%."
    assert not {"model_version", "verdict"} & again.data.tags.keys()
    assert [model.name for model in client.search_registered_models()] == ["dae"]
    assert registry.list_aliases("dae") == {"champion": "1", "challenger": "1"}
    assert len(registry.list_versions("dae")) == 1


@pytest.mark.usefixtures("mlflow_store")
def test_a_model_that_is_live_is_named_by_its_alias(home: Path, second: dict[str, Any]) -> None:
    run_id = trained(config(home))
    registry.set_alias("dae", "champion", "1")
    for reference in ("models:/dae@champion", "models:/dae/1"):
        code, out, err = dae("reproduce", reference, "--json")
        assert code == 0, err
        assert json.loads(out)["run_id"] == run_id
    assert "training" in err
    assert dae("reproduce", "models:/dae@nobody")[0] == 1


@pytest.mark.usefixtures("mlflow_store")
def test_scores_that_differ_are_not_reproduced(home: Path, second: dict[str, Any]) -> None:
    run_id = trained(config(home))
    second["scores"] = SCORES | {"test_mse": 0.021, "val_mse_poisson": NAN}
    code, out, _ = dae("reproduce", run_id)
    assert code == 10
    assert out.splitlines()[-1] == (
        "Not reproduced: val_mse_poisson was 0.03 and is nan; test_mse is 5% above the recorded one."
    )
    second["scores"] = SCORES | {"test_mse": 0.021}
    assert dae("reproduce", run_id, "--tolerance", "0.06")[0] == 0
    code, out, _ = dae("reproduce", run_id, "--json")
    record = json.loads(out)
    assert (code, record["agrees"], record["outcome"]) == (
        10,
        False,
        "Not reproduced: test_mse is 5% above the recorded one.",
    )
    assert {score["name"]: score["agrees"] for score in record["scores"]} == {
        "best_val_mse": True,
        "val_mse_poisson": True,
        "test_mse": False,
        "test_mse_poisson": True,
    }


@pytest.mark.usefixtures("mlflow_store")
def test_scores_on_other_noise_are_not_reproduced_however_they_agree(home: Path, second: dict[str, Any]) -> None:
    run_id = trained(config(home))
    second["noise"] = "m" * 64
    code, out, _ = dae("reproduce", run_id)
    assert code == 10
    assert "noise_digest.validation is another; noise_digest.test is another." in out.splitlines()[-1]


@pytest.mark.usefixtures("mlflow_store")
def test_other_images_are_refused_before_any_training_naming_both_digests(home: Path, second: dict[str, Any]) -> None:
    given = config(home)
    run_id = trained(given)
    recorded_digest = connect().get_run(run_id).data.tags["data_digest"]
    np.save(home / "images.npy", np.zeros((60, 9, 9), np.uint8))
    now = datasets.ingest(given.data).digest
    code, out, err = dae("reproduce", run_id)
    assert code == 1
    assert recorded_digest in err
    assert now in err
    assert "training" not in out


@pytest.mark.usefixtures("mlflow_store")
def test_the_same_pixels_under_another_digest_are_the_same_images(home: Path) -> None:
    given = config(home)
    run = read_run(trained(given))
    found = datasets.ingest(given.data)
    pixels = {split: getattr(found, split).sha256 for split in ("train", "validation", "test")}
    renamed = run.model_copy(update={"digests": {"data_digest": "0" * 64}, "pixels": pixels})
    assert "their pixels are the same" in reproduce.require_images(renamed)[0]
    with pytest.raises(DataError, match="0" * 64):
        reproduce.require_images(renamed.model_copy(update={"pixels": pixels | {"test": "1"}}))


@pytest.mark.usefixtures("mlflow_store")
def test_only_a_finished_run_with_scores_is_reproduced(home: Path, second: dict[str, Any]) -> None:
    given = config(home)
    with pytest.raises(KeyboardInterrupt), open_run(given, "none") as killed:
        raise KeyboardInterrupt
    without = trained(given, {"test_mse": 0.1})
    client = connect()
    bare = client.create_run(experiment_id(client, "denoising")).info.run_id
    client.set_terminated(bare)
    for run_id, message in ((killed, "is KILLED"), (without, "best_val_mse"), (bare, "no config.yaml")):
        code, out, err = dae("reproduce", run_id)
        assert code == 1
        assert message in err
        assert "training" not in out


@pytest.mark.usefixtures("mlflow_store")
def test_a_run_is_found_by_the_beginning_of_its_id_if_there_is_one(home: Path) -> None:
    first, second = trained(config(home)), trained(config(home))
    shared = first[: next(place for place in range(32) if first[place] != second[place])]
    assert find_run(first[: len(shared) + 1]) == find_run(first) == first
    for reference, message in (("f" * 31, "no runs"), ("f" * 32, "no run"), ("dae@champion", "is named by its id")):
        with pytest.raises(TrackingError, match=message):
            find_run(reference)
    if shared:
        with pytest.raises(TrackingError, match="2 runs"):
            find_run(shared)


@pytest.mark.usefixtures("mlflow_store")
def test_what_was_different_then_is_told(home: Path) -> None:
    run = read_run(trained(config(home)))
    assert environment_differences(run) == []
    other = run.model_copy(
        update={
            "packages": run.packages | {"keras": "2.0", "jax": "0.1", "torch": "1.0"},
            "machine": run.machine | {"cores": 1024},
        }
    )
    notes = environment_differences(other)
    assert any(note.startswith("keras was 2.0, is 3") for note in notes)
    assert any(note.startswith("cores was 1024, is ") for note in notes)
    assert not any("torch" in note for note in notes)


@pytest.mark.usefixtures("mlflow_store")
def test_a_dirty_checkout_is_told(home: Path, second: dict[str, Any]) -> None:
    run_id = trained(config(home))
    set_tags(run_id, {"git_dirty": "true"})
    assert "changes that were not committed" in dae("reproduce", run_id, "--here")[1]


@pytest.mark.usefixtures("mlflow_store")
def test_an_impossible_tolerance_exits_2() -> None:
    code, _, err = dae("reproduce", "0" * 32, "--tolerance=-1")
    assert (code, "0 or more" in err) == (2, True)


# A run made again, with training


@NEEDS_GIT
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server", "mlflow_store")
def test_a_run_is_reproduced_bit_for_bit_from_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "clone"
    for name in ("dae", "flows", "tasks"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, clone / name)
    git(clone, "init")
    git(clone, "add", ".")
    git(clone, "commit", "-m", "first")
    commit = git(clone, "rev-parse", "HEAD")
    monkeypatch.setattr(storage, "PACKAGE_ROOT", clone)
    given = loading.load(ROOT / "configs" / "smoke.yaml", [*TINY, "gate.smoke_test=null"])
    (tmp_path / "tiny.yaml").write_text(loading.dump(given))
    tree = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    rerun.run_training(tree, SourceCode(commit=None, note=""), {}, sys.stdout)
    client = connect()
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.data.tags["git_commit"], run.data.tags["git_dirty"]) == (commit, "false")

    (clone / "flows" / "train.py").write_text("raise SystemExit(1)")
    git(clone, "commit", "-am", "second")
    code, out, err = dae("reproduce", run.info.run_id, "--tolerance", "0")
    assert code == 0, out + err
    assert out.splitlines()[-1] == "Reproduced: every score within 0%."
    assert f"commit {commit[:8]}, in a worktree of its own" in out
    assert registry.list_aliases("dae-smoke") == {"champion": "1"}
    assert [model.name for model in client.search_registered_models()] == ["dae-smoke"]
    assert len(git(clone, "worktree", "list").splitlines()) == 1
    assert dae("reproduce", run.info.run_id, "--here")[0] == 1

    git(clone, "reset", "--hard", commit)
    client.log_metric(run.info.run_id, "test_mse", run.data.metrics["test_mse"] * 1.5)
    code, out, _ = dae("reproduce", run.info.run_id, "--here")
    assert code == 10
    assert out.splitlines()[-1] == "Not reproduced: test_mse is 33.3% below the recorded one."
