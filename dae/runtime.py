"""Settings of the process: what must be in the environment before Keras, Prefect or MLflow are imported, and signals."""

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
    # Explicit, so that a keras.json of the user's does not choose it.
    "KERAS_BACKEND": "tensorflow",
    # A GPU's memory is taken as it is needed, not all at once: by TensorFlow, and by JAX.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    # oneDNN changes the results in the last digits, so it must not depend on the machine; training is faster with it.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # No word to anyone: telemetry of MLflow and Prefect off.
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Prefect's temporary server migrates its database at the first start, which can take longer than its 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "dae",
    # A run that gives none for a while is taken for dead (deploy/server.yaml says after how many).
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


# The terminal belongs to the command's own report; Prefect's logs still reach its server.
TERMINAL = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_CLI_COLORS": "false"}


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Turn the file descriptor of standard error away: C++ writes to it before, or whatever, log levels are set."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def import_keras() -> None:
    """Import Keras, in a thread beside the start of Prefect's server, without TensorFlow's notices on standard error."""
    with silence_stderr():
        import keras  # noqa: F401


class _NoTensorFlow(MetaPathFinder):
    """Refuses to import TensorFlow."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        if fullname == "tensorflow":
            raise ModuleNotFoundError("tensorflow stays out where KERAS_BACKEND is another", name=fullname)


def _keep_tensorflow_out() -> None:
    """Hide TensorFlow, which Keras imports on any backend to seed it: that takes seconds, and memory of the GPU."""
    if "tensorflow" not in sys.modules and not any(isinstance(finder, _NoTensorFlow) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoTensorFlow())


def prefect_home() -> Path:
    """Return where Prefect keeps its database, results and marks, unless the environment says otherwise.

    Its own default, ``~/.prefect``, is shared by all projects of a user, and the database there works with the newest Prefect
    among them alone.
    """
    return storage.cache_folder() / "prefect"


def _prefect_settings() -> dict[str, str]:
    """Return where Prefect keeps its files; a profile that the user has made, which may name a server, is still read."""
    if "PREFECT_HOME" in os.environ:
        return {}
    own = {"PREFECT_HOME": str(prefect_home())}
    with suppress(OSError, RuntimeError):  # a home that is not known, or cannot be read
        profiles = Path("~/.prefect/profiles.toml").expanduser()
        if profiles.is_file():
            own["PREFECT_PROFILES_PATH"] = str(profiles)
    return own


def prepare_prefect() -> None:
    """Set what Prefect reads as it is imported, and make its home, which it does only where the parent folder is there."""
    configure()
    with suppress(OSError):  # whatever needs it says so
        Path(os.environ["PREFECT_HOME"]).expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)


def configure(*, terminal: bool = False) -> None:
    """Set what the environment does not say already; with `terminal`, for a command that prints a report of its own."""
    for name, value in (SETTINGS | _prefect_settings() | (TERMINAL if terminal else {})).items():
        os.environ.setdefault(name, value)
    if os.environ["KERAS_BACKEND"] != "tensorflow":
        _keep_tensorflow_out()
    logger = logging.getLogger("dae")
    logger.setLevel(logging.INFO)
    if terminal and not logger.handlers:
        said, warned = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
        said.setFormatter(logging.Formatter("%(message)s"))
        said.addFilter(lambda record: record.levelno < logging.WARNING)
        warned.setFormatter(logging.Formatter("warning: %(message)s"))
        warned.setLevel(logging.WARNING)
        logger.addHandler(said)
        logger.addHandler(warned)


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `SystemExit` in the block, with the exit code a shell gives; outside of the main thread it cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
