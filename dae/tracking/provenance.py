"""Where a result comes from: the commit, the packages, the machine, the process and the user."""

from __future__ import annotations

import functools
import getpass
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from dae import storage

BACKEND_PACKAGES = {"tensorflow": ("tensorflow-cpu", "tensorflow"), "jax": ("jax", "jaxlib")}
ACTOR = ("DAE_ACTOR", "GITHUB_ACTOR", "GITLAB_USER_LOGIN")


def current_actor() -> str:
    """Return who runs this process: ``$DAE_ACTOR`` or the user of a CI system, else the user and the machine."""
    for name in ACTOR:
        if actor := os.environ.get(name, "").strip():
            return actor
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def describe_process() -> str:
    """Return a unique description of this process as JSON: where it runs, its number, and when it began."""
    return json.dumps({**_where(), "pid": os.getpid(), "began": _began(os.getpid())})


def is_running(description: str) -> bool | None:
    """Return whether a process that `describe_process` described is running.

    None if the process is not visible from here, or the description is empty or damaged.
    """
    try:
        place = json.loads(description)
        pid, began = int(place.pop("pid")), float(place.pop("began"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if place != _where():
        return None
    current = _began(pid)
    return current is not None and abs(current - began) < 1


def _where() -> dict[str, str]:
    """Return what identifies a numbering of processes: the machine, its boot, and the container."""
    place = {"host": socket.gethostname()}
    with suppress(OSError):
        place["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        place["namespace"] = str(Path("/proc/self/ns/pid").readlink())
    return place


def _began(pid: int) -> float | None:
    """Return when a process began; None if it does not exist, or is a zombie.

    In seconds since the boot of the machine where this is known, so that changes of the clock have no effect.
    """
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return float(process.create_time())
    return None


def read_git_tags() -> dict[str, str]:
    """Return ``git_commit`` and ``git_dirty`` of the checkout the code runs from, ``unknown`` outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain")
    return {"git_commit": commit or "unknown", "git_dirty": "unknown" if status is None else str(bool(status)).lower()}


def _git(*arguments: str) -> str | None:
    folder = storage.PACKAGE_ROOT
    if not (folder / ".git").exists():
        return None
    try:
        completed = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()


@functools.cache  # it reads hundreds of files, and the result does not change within a process
def list_requirements() -> str:
    """Return the installed packages, one ``name==version`` per line."""
    versions = {
        distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()
    }
    return "".join(f"{name}=={versions[name]}\n" for name in sorted(versions, key=str.lower))


def model_requirements() -> list[str]:
    """Return the pinned packages that are needed to load a logged model on the backend in use."""
    import keras

    pins = []
    for name in (*BACKEND_PACKAGES.get(keras.config.backend(), ()), "keras", "numpy", "pillow", "imagecodecs"):
        try:
            pins.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return pins


def list_devices() -> str:
    """Return the devices Keras computes on: ``gpu:0``, or ``cpu:0`` without a GPU or TPU."""
    import keras

    return ", ".join(keras.distribution.list_devices())


def describe_machine() -> dict[str, str | int | None]:
    """Return the system, the processor, the backend and the devices of this process."""
    import keras

    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "keras_backend": keras.config.backend(),
        "devices": list_devices(),
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS"),
    }
