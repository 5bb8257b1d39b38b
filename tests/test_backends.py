"""The same networks on Keras's TensorFlow and JAX backends."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from dae.cli import app
from dae.config.schema import ModelConfig
from dae.networks import build

OTHER = {"tensorflow": "jax", "jax": "tensorflow"}
NETWORKS = [ModelConfig(), ModelConfig(architecture="article")]
LOADED = """
import sys
from dae import runtime
runtime.configure()
import keras, numpy
keras.utils.set_random_seed(0)
print(keras.config.backend(), "tensorflow" in sys.modules)
for name in sys.argv[1:]:
    model = keras.saving.load_model(f"{name}.keras", safe_mode=True)
    numpy.save(f"{name}-restored.npy", model.predict_on_batch(numpy.load(f"{name}-noisy.npy")))
"""


def run(folder: Path, backend: str | None, *names: str, home: Path | None = None) -> list[str]:
    """Restore what lies in the folder in a process of its own; return its backend, and whether TensorFlow was imported."""
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    environment |= {"KERAS_BACKEND": backend} if backend else {}
    environment |= {"KERAS_HOME": str(home)} if home else {}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", LOADED, *names]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ("", "must be tensorflow or jax, received ''"),
        ("torch", "received 'torch'"),
        ("jax", "not installed; install it"),
    ],
)
def test_a_backend_that_cannot_be_is_refused_before_anything_is_done(
    home: Path, asked: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", asked)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "jax" else found(name, *more))
    for command in (["train"], ["denoise", "noisy.png"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert rule in done.stderr.replace("\n", " ")
    assert not list(home.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="the extra jax is not installed")
def test_the_same_weights_restore_the_same_images_on_the_other_backend(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    restored = {}
    for config in NETWORKS:
        name = config.architecture
        model = build.build_network(config, (28, 28, 1))
        model.set_weights([rng.normal(0, 0.05, weight.shape).astype(np.float32) for weight in model.get_weights()])
        noisy = rng.normal(0.5, 0.5, (3, 28, 28, 1) if name == "article" else (3, 29, 34, 1)).astype(np.float32)
        np.save(tmp_path / f"{name}-noisy.npy", noisy)
        model.save(tmp_path / f"{name}.keras")
        restored[name] = model.predict_on_batch(noisy)
    other = OTHER[keras.config.backend()]
    assert run(tmp_path, other, *restored) == [other, str(other == "tensorflow")]
    for name, images in restored.items():
        assert images.std() > 1e-3
        np.testing.assert_allclose(np.load(tmp_path / f"{name}-restored.npy"), images, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_backend_is_tensorflow_whatever_the_users_keras_file_says(tmp_path: Path) -> None:
    settings = {"backend": "jax", "floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    assert run(tmp_path, None, home=tmp_path) == ["tensorflow", "True"]


@pytest.mark.skipif(keras.config.backend() == "tensorflow", reason="concerns the other backends")
def test_tensorflow_is_out_of_reach_on_another_backend() -> None:
    assert "tensorflow" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="tensorflow is not imported"):
        importlib.import_module("tensorflow")
