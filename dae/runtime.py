"""Settings of the process: environment variables that Keras, Prefect and MLflow read at import, logging, and signals."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from dae import storage

SETTINGS = {
    # Explicit, so that a keras.json of the user does not choose it.
    "KERAS_BACKEND": "tensorflow",
    # TensorFlow and JAX allocate GPU memory as they need it, not all at once.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    # Explicit, since oneDNN changes the last digits of results. Training is faster with it.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # MLflow and Prefect send no telemetry.
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Prefect's temporary server migrates its database at the first start, which can take longer than its 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "dae",
    # A run without heartbeats is marked as crashed (deploy/server.yaml sets after how long).
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


# The terminal shows only the command's own report. Prefect's logs still reach its server.
TERMINAL = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_CLI_COLORS": "false"}


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Redirect the file descriptor of standard error to nowhere, since C++ libraries write to it whatever the log level is."""
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)


def import_keras() -> None:
    """Import Keras without TensorFlow's notices on standard error."""
    with silence_stderr():
        import keras  # noqa: F401


class _NoTensorFlow(MetaPathFinder):
    """Refuses to import TensorFlow."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        if fullname == "tensorflow":
            raise ModuleNotFoundError("tensorflow is not imported when KERAS_BACKEND is another", name=fullname)


def _keep_tensorflow_out() -> None:
    """Hide TensorFlow from imports.

    Keras imports an installed TensorFlow on every backend, to seed it and to save or load a model. Neither ``KERAS_BACKEND``
    nor any other setting prevents that. On JAX the import takes 3 s, 400 MiB of memory, and memory of the GPU.
    """
    if "tensorflow" not in sys.modules and not any(isinstance(finder, _NoTensorFlow) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoTensorFlow())


def prefect_home() -> Path:
    """Return the folder of Prefect's database and results, unless the environment sets another.

    Prefect's own default, ``~/.prefect``, is shared by all projects of a user, and its database works only with the newest
    version of Prefect among them.
    """
    return storage.cache_folder() / "prefect"


def _prefect_settings() -> dict[str, str]:
    """Return the settings of Prefect's folders. A profile of the user, which may name a server, is still read."""
    if "PREFECT_HOME" in os.environ:
        return {}
    folders = {"PREFECT_HOME": str(prefect_home())}
    with suppress(OSError, RuntimeError):  # the home folder is unknown, or cannot be read
        profiles = Path("~/.prefect/profiles.toml").expanduser()
        if profiles.is_file():
            folders["PREFECT_PROFILES_PATH"] = str(profiles)
    return folders


def prepare_prefect() -> None:
    """Set what Prefect reads at import, and create its home. Prefect itself creates no parent folders."""
    configure()
    with suppress(OSError):  # code that needs the folder reports the error
        Path(os.environ["PREFECT_HOME"]).expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)


def configure(*, terminal: bool = False) -> None:
    """Set the variables that the environment does not have yet. `terminal` is for a command that prints its own report."""
    for name, value in (SETTINGS | _prefect_settings() | (TERMINAL if terminal else {})).items():
        os.environ.setdefault(name, value)
    if os.environ["KERAS_BACKEND"] != "tensorflow":
        _keep_tensorflow_out()
    logger = logging.getLogger("dae")
    logger.setLevel(logging.INFO)
    if terminal and not logger.handlers:
        output, warnings = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
        output.setFormatter(logging.Formatter("%(message)s"))
        output.addFilter(lambda record: record.levelno < logging.WARNING)
        warnings.setFormatter(logging.Formatter("warning: %(message)s"))
        warnings.setLevel(logging.WARNING)
        logger.addHandler(output)
        logger.addHandler(warnings)


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `SystemExit` in the block, with a shell's exit code. Outside the main thread this has no effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
