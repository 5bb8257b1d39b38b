"""What a result came from: the commit, the packages, the machine."""

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
    """Return who does this: what ``$DAE_ACTOR`` or a CI system says, else the user and the machine."""
    for name in ACTOR:
        if said := os.environ.get(name, "").strip():
            return said
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def describe_process() -> str:
    """Return this process so that no other is ever taken for it: where it runs, its number, and when it began, as JSON."""
    return json.dumps({**_where(), "pid": os.getpid(), "began": _began(os.getpid())})


def is_running(told: str) -> bool | None:
    """Tell whether a process that `describe_process` told of runs; None if it cannot be seen from here, or nothing was told."""
    try:
        said = json.loads(told)
        pid, began = int(said.pop("pid")), float(said.pop("began"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if said != _where():
        return None
    now = _began(pid)
    return now is not None and abs(now - began) < 1


def _where() -> dict[str, str]:
    """Return what tells apart the places that number processes: machines, their starts, containers of one name."""
    found = {"host": socket.gethostname()}
    with suppress(OSError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        found["namespace"] = str(Path("/proc/self/ns/pid").readlink())
    return found


def _began(pid: int) -> float | None:
    """Return when a process began; None if there is none, or it has ended and nobody has asked for its exit code yet.

    In seconds since the machine started, where it says so: a clock that is set changes nothing.
    """
    import psutil

    with suppress(psutil.Error):
        found = psutil.Process(pid)
        if found.status() == psutil.STATUS_ZOMBIE:
            return None
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return float(found.create_time())
    return None


def read_git_tags() -> dict[str, str]:
    """Return ``git_commit`` and ``git_dirty`` of the checkout the code runs from, ``unknown`` outside one."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain")
    return {"git_commit": commit or "unknown", "git_dirty": "unknown" if status is None else str(bool(status)).lower()}


def _git(*arguments: str) -> str | None:
    folder = storage.PACKAGE_ROOT
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache  # some hundred files are read, and a process keeps the packages it has imported
def list_requirements() -> str:
    """Return the installed packages, one ``name==version`` a line."""
    found = {distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()}
    return "".join(f"{name}=={found[name]}\n" for name in sorted(found, key=str.lower))


def model_requirements() -> list[str]:
    """Return the pinned packages a logged model needs to be loaded, on the backend in use."""
    import keras

    pins = []
    for name in (*BACKEND_PACKAGES.get(keras.config.backend(), ()), "keras", "numpy", "pillow", "imagecodecs"):
        try:
            pins.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return pins


def list_devices() -> str:
    """Return the devices Keras computes on: ``gpu:0`` or, where there is no GPU or TPU, ``cpu:0``."""
    import keras

    return ", ".join(keras.distribution.list_devices())


def describe_machine() -> dict[str, str | int | None]:
    """Return what the run ran on."""
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
