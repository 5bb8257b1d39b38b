"""The denoising flow: a folder in batches, gone on with where it was stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from dae.config.schema import ModelConfig, PipelineConfig
from dae.inference.resume import FinishedFile
from dae.networks import build
from dae.schemas import TrainingDomain
from dae.tracking import log_model, models
from dae.tracking.client import connect
from dae.tracking.runs import NEEDED_UNTIL, open_run
from flows.denoise import FilesNotRestored, denoise_folder

pytestmark = pytest.mark.usefixtures("prefect_server", "mlflow_store")


@pytest.fixture
def champion(mlflow_store: Path) -> str:
    keras.utils.set_random_seed(0)
    model = build.build_network(ModelConfig(width=8, deep_width=8), (28, 28, 1))
    trained = TrainingDomain(image_shape=(28, 28, 1), noise_sigma=(0.0, 0.3), intensity=(0.0, 1.0))
    with open_run(PipelineConfig(), "none") as run_id:
        _, uri = log_model.log_model(run_id, model, np.zeros((1, 28, 28, 1), np.float32), "dae", trained)
    client = connect()
    client.create_registered_model("dae")
    client.create_model_version("dae", uri, run_id)
    client.set_registered_model_alias("dae", "champion", "1")
    return "models:/dae/1"


def test_a_folder_is_done_once_whatever_happens_to_single_files(champion: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    rng = np.random.default_rng(0)
    (folder / "deep").mkdir(parents=True)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (30, 40), np.uint8)).save(folder / "deep" / f"{number}.png")
    bad = [folder / "bad.png", folder / "worse.tif"]
    for file in bad:
        file.write_bytes(b"bad")

    with pytest.raises(FilesNotRestored) as caught:
        denoise_folder(folder, out, batch=2)
    assert str(caught.value).startswith("2 of 7 files were not restored:")
    assert all(f"{file}: must be a" in str(caught.value) for file in bad)
    done = {number: out / "deep" / f"{number}.png" for number in range(5)}
    times = {number: file.stat().st_mtime_ns for number, file in done.items()}
    record = FinishedFile.model_validate_json((out / ".dae" / "deep" / "0.png.json").read_text())
    assert record.model == champion
    kept = connect().get_run(models.locate_model(champion).run_id).data.tags[NEEDED_UNTIL]
    assert float(kept) > time.time() + 3600  # from dae gc

    for file in bad:
        file.unlink()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "deep" / "3.png")
    result = denoise_folder(folder, out, batch=2)
    assert (result.model, result.restored, result.skipped) == (champion, 1, 4)
    assert [number for number, file in done.items() if file.stat().st_mtime_ns != times[number]] == [3]
    with Image.open(done[3]) as found:
        assert found.size == (9, 9)


@pytest.mark.usefixtures("champion")
def test_what_the_model_would_harm_is_left_unless_it_is_asked_for(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).save(folder / name)
    with pytest.raises(FilesNotRestored) as caught:
        denoise_folder(folder, out)
    first, second = str(caught.value).splitlines()[1:]
    assert "a.png: not restored, since it is in colour, the model was trained on images in grey" in first
    assert second == f"{folder / 'b.png'}: not restored, for the same reason as one above"
    assert not list(out.glob("*.png"))
    assert denoise_folder(folder, out, anyway=True).restored == 2


def test_a_model_that_is_not_there_fails_before_any_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(models.ModelError, match="no model models:/dae@nobody"):
        denoise_folder(tmp_path / "in", tmp_path / "out", model="models:/dae@nobody")
    assert not (tmp_path / "out").exists()


def command(*arguments: str) -> tuple[int, str, str]:
    program = [sys.executable, "-m", "flows.denoise", *arguments]
    done = subprocess.run(program, env=os.environ, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_from_the_command_line_it_says_in_one_message_what_became_of_the_files(champion: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(folder / "a.png")
    assert command(str(folder), str(out)) == (0, f"1 file restored with {champion}, 0 done before.\n", "")
    dark = np.random.default_rng(0).integers(0, 51, (30, 40), np.uint8)
    for name in ("dark.png", "night.png"):
        Image.fromarray(dark).save(folder / name)
    code, stdout, stderr = command(str(folder), str(out))
    assert (code, stdout) == (0, f"2 files restored with {champion}, 1 done before.\n")
    assert stderr.startswith(f"warning: {folder / 'dark.png'}: its intensities end at 0.196, ")
    assert stderr.endswith("\nwarning: 2 of 3 files are unlike what the model was made for\n")
    assert stderr.count("\n") == 2
    (folder / "bad.png").write_bytes(b"bad")
    found = "must be a PNG file; found one that begins with b'bad'"
    said = f"error: 1 of 4 files were not restored:\n{folder / 'bad.png'}: {found}\n"
    assert command(str(folder), str(out)) == (1, "", said)
    said = f"error: {folder / 'a.png'}: must not be an input; choose another output\n"
    assert command(str(folder), str(folder)) == (2, "", said)
