from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

import keras
import pytest

from dae import storage
from dae.tracking import provenance

NEEDS_GIT = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder the code seems to run from."""
    folder = tmp_path / "checkout"
    (folder / "dae").mkdir(parents=True)
    (folder / "dae" / "provenance.py").write_text("")
    monkeypatch.setattr(storage, "PACKAGE_ROOT", folder)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    return folder


@NEEDS_GIT
def test_a_run_is_tagged_with_the_commit_and_whether_anything_was_changed_since(checkout: Path) -> None:
    git(checkout, "init")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    assert provenance.read_git_tags() == {"git_commit": commit, "git_dirty": "false"}
    (checkout / "dae" / "provenance.py").write_text("changed")
    assert provenance.read_git_tags() == {"git_commit": commit, "git_dirty": "true"}


@NEEDS_GIT
def test_a_file_git_does_not_know_makes_the_checkout_dirty(checkout: Path) -> None:
    git(checkout, "init")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    (checkout / "new.py").write_text("")
    assert provenance.read_git_tags()["git_dirty"] == "true"


@NEEDS_GIT
def test_a_repository_without_a_commit_has_an_unknown_one(checkout: Path) -> None:
    git(checkout, "init")
    assert provenance.read_git_tags()["git_commit"] == "unknown"


def test_outside_a_checkout_the_commit_is_unknown(checkout: Path) -> None:
    assert provenance.read_git_tags() == {"git_commit": "unknown", "git_dirty": "unknown"}


def test_without_git_the_commit_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / ".git").mkdir()
    monkeypatch.setenv("PATH", str(checkout))
    assert provenance.read_git_tags() == {"git_commit": "unknown", "git_dirty": "unknown"}


def test_the_requirements_pin_every_installed_package_once() -> None:
    lines = provenance.list_requirements().splitlines()
    assert f"numpy=={importlib.metadata.version('numpy')}" in lines
    assert f"mlflow=={importlib.metadata.version('mlflow')}" in lines
    assert len({line.partition("==")[0] for line in lines}) == len(lines)
    assert all(line.count("==") == 1 for line in lines)


def test_a_logged_model_requires_what_loads_it_and_nothing_that_is_not_installed() -> None:
    pins = dict(pin.split("==") for pin in provenance.model_requirements())
    assert {"keras", "numpy"} <= pins.keys()
    on_jax = keras.config.backend() == "jax"
    assert bool({"jax", "jaxlib"} & pins.keys()) == on_jax
    assert bool({"tensorflow", "tensorflow-cpu"} & pins.keys()) == (not on_jax)
    assert all(importlib.metadata.version(name) == version for name, version in pins.items())


def test_the_machine_is_described_by_what_bears_on_the_figures() -> None:
    found = provenance.describe_machine()
    assert found["python"] == platform.python_version()
    assert found["cores"] == os.cpu_count()
    assert found["keras_backend"] == os.environ["KERAS_BACKEND"]
    assert found["devices"] == ", ".join(keras.distribution.list_devices()) != ""
    assert found["TF_ENABLE_ONEDNN_OPTS"] == os.environ["TF_ENABLE_ONEDNN_OPTS"]
