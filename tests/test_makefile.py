"""Which set of packages a machine gets."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDS_MAKE = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
CUDA_MACHINE = (platform.system(), platform.machine()) == ("Linux", "x86_64")


def lock(tmp_path: Path, nvidia_smi: str, *variables: str) -> str:
    """Return the lock file `make setup` would install from, with a program of that content as nvidia-smi."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{nvidia_smi}\n")
    program.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key not in ("GPU", "MAKEFLAGS", "MAKEOVERRIDES")}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "--dry-run", "setup", f"VENV={tmp_path / 'venv'}", *variables]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    (found,) = re.findall(r"make_venv\.py \S+ (\S+) --gb", done.stdout)
    return str(found)


@NEEDS_MAKE
@pytest.mark.skipif(not CUDA_MACHINE, reason="CUDA's packages are for Linux on x86-64")
def test_a_machine_with_an_nvidia_gpu_gets_cuda_unless_told_otherwise(tmp_path: Path) -> None:
    listing = "echo 'GPU 0: NVIDIA H100 (UUID: GPU-0)'"
    assert lock(tmp_path, listing) == "requirements-gpu.lock"
    assert lock(tmp_path, listing, "GPU=0") == "requirements.lock"


@NEEDS_MAKE
@pytest.mark.parametrize("nvidia_smi", ["echo 'No devices found'", "echo 'driver not loaded' >&2; exit 9"])
def test_a_machine_without_a_usable_gpu_gets_none_of_cuda(tmp_path: Path, nvidia_smi: str) -> None:
    assert lock(tmp_path, nvidia_smi) == "requirements.lock"
    assert lock(tmp_path, nvidia_smi, "GPU=1") == "requirements-gpu.lock"


def pins(name: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


def layers(target: str, **more: str) -> list[str]:
    """Return the locks a target of the Makefile installs from, where there is no environment yet."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "KERAS"))}
    command = ["make", "--dry-run", target, "GPU=0", "VENV=nowhere"]
    done = subprocess.run(command, cwd=ROOT, env=environment | more, capture_output=True, text=True, check=True)
    return str(re.findall(r"make_venv\.py \S+ (.+) --gb", done.stdout)[-1]).split()


@NEEDS_MAKE
def test_what_only_tests_take_comes_with_the_targets_that_take_it() -> None:
    running, both = ["requirements.lock"], ["requirements.lock", "requirements-dev.lock"]
    for target in ("setup", "train", "smoke", "ui", "runs", "services", "deploy", "trigger", "bench", "wheel"):
        assert layers(target) == running, target
    for target in ("setup-dev", "test", "test-slow", "test-jax", "integration", "lint"):
        assert layers(target) == both, target
    assert layers("train", KERAS_BACKEND="jax") == both


def test_the_layers_have_nothing_in_common() -> None:
    running, beside = ({name for name, _ in pins(lock)} for lock in ("requirements.lock", "requirements-dev.lock"))
    assert not running & beside
    assert {"onnxruntime", "supervisor", "hatchling"} <= running
    assert {"pytest", "jaxlib", "playwright", "mypy", "bm3d"} <= beside


def test_the_locks_name_no_index() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        assert "://" not in lock.read_text(), lock.name


def test_the_locks_differ_in_tensorflow_and_cuda_alone() -> None:
    plain, cuda = pins("requirements.lock"), pins("requirements-gpu.lock")
    assert {name for name, _ in plain - cuda} == {"tensorflow-cpu"}
    assert {name.partition("-")[0] for name, _ in cuda - plain} == {"nvidia"}
