"""What a result came from: the commit, the packages, the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

BACKEND_PACKAGES = {"tensorflow": ("tensorflow-cpu", "tensorflow"), "jax": ("jax", "jaxlib")}


def git_tags() -> dict[str, str]:
    """Return ``git_commit`` and ``git_dirty`` of the checkout the code runs from, ``unknown`` outside one."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain")
    return {"git_commit": commit or "unknown", "git_dirty": "unknown" if status is None else str(bool(status)).lower()}


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def requirements() -> str:
    """Return the installed packages, one ``name==version`` a line."""
    found = {distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()}
    return "".join(f"{name}=={found[name]}\n" for name in sorted(found, key=str.lower))


def model_requirements() -> list[str]:
    """Return the pinned packages a logged model needs to be loaded, on the backend in use."""
    import keras

    pins = []
    for name in (*BACKEND_PACKAGES.get(keras.config.backend(), ()), "keras", "numpy"):
        try:
            pins.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return pins


def devices() -> str:
    """Return the devices Keras computes on: ``gpu:0`` or, where there is no GPU or TPU, ``cpu:0``."""
    import keras

    return ", ".join(keras.distribution.list_devices())


def machine() -> dict[str, str | int | None]:
    """Return what the run ran on."""
    import keras

    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "keras_backend": keras.config.backend(),
        "devices": devices(),
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS"),
    }
