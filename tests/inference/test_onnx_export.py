from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

from dae.cli import app
from dae.config.schema import ModelConfig, PipelineConfig
from dae.inference import onnx_export
from dae.inference.onnx_export import ExportError
from dae.networks import autoencoder, build
from dae.tracking import log_model, models, runs
from dae.tracking.client import connect
from dae.tracking.runs import open_run

SHAPES = [(1, 28, 28), (7, 28, 28), (1, 8, 9), (3, 37, 53), (2, 64, 20)]


def unet(channels: int = 1) -> keras.Model:
    """A small network whose every layer matters: as built, the last convolution of each block is zero."""
    model = build.build_network(ModelConfig(width=8, deep_width=8), (28, 28, channels))
    rng = np.random.default_rng(0)
    model.set_weights([weights + rng.normal(0, 0.1, weights.shape) for weights in model.get_weights()])
    return model


def small() -> keras.Model:
    image = keras.Input((None, None, 1))
    return keras.Model(image, keras.layers.Conv2D(1, 3, padding="same")(image))


def run_onnx(path: Path, noisy: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["restored"], {"noisy": noisy})[0])


@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_file_gives_what_keras_gives_for_any_number_and_size_of_images(tmp_path: Path, channels: int) -> None:
    model = unet(channels)
    made = onnx_export.write_onnx(model, tmp_path / "unet.onnx", size=(16, 20))
    assert made.shapes[:2] == ((1, 16, 20, channels), (8, 16, 20, channels))
    assert made.difference <= 1e-5
    assert made.size == made.path.stat().st_size
    for shape in SHAPES:
        noisy = np.random.default_rng(1).normal(0.5, 0.7, (*shape, channels)).astype(np.float32)
        expected = np.asarray(model.predict_on_batch(noisy))
        assert np.abs(expected - noisy).max() > 0.01
        np.testing.assert_allclose(run_onnx(made.path, noisy), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_articles_network_is_exported_for_its_own_size(tmp_path: Path) -> None:
    model = autoencoder.build_autoencoder()
    made = onnx_export.write_onnx(model, tmp_path / "article.onnx")
    assert made.shapes == ((1, 28, 28, 1), (8, 28, 28, 1))
    noisy = np.random.default_rng(1).random((3, 28, 28, 1), np.float32)
    np.testing.assert_allclose(run_onnx(made.path, noisy), model.predict_on_batch(noisy), rtol=0, atol=1e-5)


def test_the_images_compared_carry_noise_that_leaves_the_range() -> None:
    one, several = onnx_export.make_test_images([(16, 20, 3)])
    assert (one.shape, several.shape) == ((1, 16, 20, 3), (8, 16, 20, 3))
    assert several.min() < 0
    assert several.max() > 1
    assert len(np.unique(several.reshape(8, -1)[:, 0])) > 1


def test_outputs_that_differ_by_more_than_allowed_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="must be within -1 of Keras's; they differ by"):
        onnx_export.write_onnx(small(), tmp_path / "model.onnx", tolerance=-1.0)
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = small()
    model.set_weights([np.full_like(weights, np.nan) for weights in model.get_weights()])
    with pytest.raises(ExportError, match="they differ by nan"):
        onnx_export.write_onnx(model, tmp_path / "unet.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_converted_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, keras.ops.irfft(keras.ops.rfft(image[..., 0]))[..., None])
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match="cannot be converted"):
        onnx_export.write_onnx(model, path, overwrite=True)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("model.onnx", b"old")]


def test_an_existing_file_is_replaced_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "unet.onnx"
    path.write_bytes(b"mine")
    model = small()
    with pytest.raises(ExportError, match="must not exist yet"):
        onnx_export.write_onnx(model, path)
    assert path.read_bytes() == b"mine"
    onnx_export.write_onnx(model, path, overwrite=True)
    onnx.checker.check_model(path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ExportError, match="must not exist yet"):
        onnx_export.write_onnx(model, tmp_path, overwrite=True)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ExportError, match=r"export needs tf2onnx, of the extra onnx: make .*setup"):
        onnx_export.export_model("models:/dae@champion", tmp_path / "unet.onnx")


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow_store")
def test_a_model_is_found_by_alias_version_uri_run_and_file(tmp_path: Path) -> None:
    model = unet()
    with open_run(PipelineConfig(), "none") as run_id:
        _, uri = log_model.log_model(run_id, model, np.zeros((1, 28, 28, 1), np.float32), "dae")
    client = connect()
    client.create_registered_model("dae")
    client.create_model_version("dae", uri, run_id)
    client.set_registered_model_alias("dae", "champion", "1")
    for reference in ("models:/dae@champion", "models:/dae/1", "1"):
        assert models.locate_model(reference) == models.ModelLocation("models:/dae/1", run_id, "dae", "1")
    for reference in (uri, run_id):
        assert models.locate_model(reference) == models.ModelLocation(uri, run_id)

    made = onnx_export.export_model("models:/dae@champion", tmp_path / "champion.onnx")
    facts = {prop.key: prop.value for prop in onnx.load(made.path).metadata_props}
    assert facts["model"] == "models:/dae/1"
    assert facts["run_id"] == run_id
    assert facts["git_commit"] == runs.read_git_commit(run_id)
    assert "unclipped" in facts["input"]

    model.save(tmp_path / "saved.keras")
    code = CliRunner().invoke(app, ["export", str(tmp_path / "saved.keras"), "--onnx", str(tmp_path / "file.onnx")])
    assert code.exit_code == 0
    noisy = np.random.default_rng(1).random((2, 28, 28, 1), np.float32)
    for path in (made.path, tmp_path / "file.onnx"):
        np.testing.assert_allclose(run_onnx(path, noisy), model.predict_on_batch(noisy), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models:/dae@champion", "no model models:/dae@champion at sqlite:"),
        ("models:/dae/7", "no model models:/dae/7 at sqlite:"),
        ("models:/m-7", "no model models:/m-7 at sqlite:"),
        ("7", "no model 7 at sqlite:"),
        ("0" * 32, f"no model {'0' * 32} at sqlite:"),
        ("models:/", "no model models:/ at sqlite:"),
        ("none.keras", "none.keras: must be a model saved by Keras"),
    ],
)
@pytest.mark.usefixtures("mlflow_store")
def test_a_model_that_is_not_there_is_an_error_and_leaves_no_file(tmp_path: Path, reference: str, message: str) -> None:
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "model.onnx"
    result = CliRunner().invoke(app, ["export", reference, "--onnx", str(path)])
    assert result.exit_code == 1
    assert message in result.stderr
    assert not list(path.parent.iterdir())


@pytest.mark.usefixtures("mlflow_store")
def test_a_run_without_a_model_says_so() -> None:
    with open_run(PipelineConfig(), "none") as run_id:
        pass
    with pytest.raises(models.ModelError, match=f"run {run_id} holds no model: it is FINISHED"):
        models.locate_model(run_id)


@pytest.mark.slow
def test_the_command_prints_one_line_and_nothing_else(tmp_path: Path) -> None:
    unet().save(tmp_path / "saved.keras")
    command = [sys.executable, "-m", "dae.cli", "export", str(tmp_path / "saved.keras")]
    command += ["--onnx", str(tmp_path / "made.onnx")]
    done = subprocess.run(command, env=os.environ, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path / 'made.onnx'}: ")
    assert "opset 18" in line
