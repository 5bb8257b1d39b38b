"""A registered version tried out: downloaded, and used in a process of its own that knows nothing but the files."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dae import runtime, storage
from dae.promotion.schemas import SmokeTestResult

TIMEOUT = 900
WARM_UP, CALLS = 5, 60
MORE_ROWS, MORE_COLUMNS = 9, 5
MIB = 2**20
ANSWER = "trial: "
FULL = {errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM}


class SmokeTestError(RuntimeError):
    """A version could not be tried, for a reason that is not its own."""


def run_smoke_test(name: str, version: str) -> SmokeTestResult:
    """Download a version, and return what it does in a clean process.

    What is wrong with the version is part of the result. That it cannot be downloaded at all is an error.

    Raises
    ------
    RegistryError
        If there is no such version.
    TrialError
        If the process was killed, took too long, or could not work.
    MlflowException
        If the store cannot be read.
    """
    from dae.promotion import registry
    from dae.tracking import models

    recorded = registry.get_version(name, version).tags.get("model_sha256") or None
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = models.download_model(f"models:/{name}/{version}", Path(folder))
        except models.ModelError as error:
            return SmokeTestResult(recorded_sha256=recorded, error=str(error))
        return _run(path).model_copy(update={"recorded_sha256": recorded})


def _run(folder: Path) -> SmokeTestResult:
    command = [sys.executable, "-m", "dae.promotion.smoke_test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise SmokeTestError(f"the trial of a version was not done after {TIMEOUT} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SmokeTestError(f"the trial of a version ended with exit code {done.returncode}: {last}")
    return SmokeTestResult.model_validate_json(lines[-1].removeprefix(ANSWER))


def examine_model(folder: Path) -> SmokeTestResult:
    """Return what the model in a folder does, apart from the digest that was recorded for it.

    Parameters
    ----------
    folder : Path
        As a model is logged: ``data/model.keras``, and ``reference.npz`` with the outputs it gave then.
    """
    import keras

    facts: dict[str, Any] = {}
    try:
        facts["sha256"] = storage.file_sha256(folder / storage.MODEL)
        facts["file_mib"] = (folder / storage.MODEL).stat().st_size / MIB
        model = keras.saving.load_model(folder / storage.MODEL, safe_mode=True, compile=False)
        noisy, restored = _reference(folder, model)
    except MemoryError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in FULL:  # the machine's trouble, not the version's
            raise
        return SmokeTestResult(error=_words(error), **facts)
    if restored is not None:
        facts["difference"] = _difference(model, noisy, restored)
    height, width = noisy.shape[1:3]
    facts["one_image"] = _trouble(model, noisy[:1])
    facts["other_size"] = _trouble(
        model, np.resize(noisy[:1], (1, height + MORE_ROWS, width + MORE_COLUMNS, noisy.shape[3]))
    )
    if facts["one_image"] is None:
        facts["latency_ms"] = _latency_ms(model, noisy[:1])
    return SmokeTestResult(memory_mib=_peak_mib(), **facts)


def _reference(folder: Path, model: Any) -> tuple[np.ndarray, np.ndarray | None]:
    if not (folder / storage.REFERENCE).is_file():
        shape = tuple(size or 32 for size in model.input_shape[1:])
        return np.full((1, *shape), 0.5, np.float32), None
    with np.load(folder / storage.REFERENCE) as stored:
        return stored["noisy"], stored["restored"]


def _difference(model: Any, noisy: np.ndarray, restored: np.ndarray) -> float:
    try:
        return float(np.abs(np.asarray(model.predict_on_batch(noisy)) - restored).max())
    except Exception:  # noqa: BLE001  (whatever a backend raises: the outputs are not those that were recorded)
        return math.inf


def _trouble(model: Any, images: np.ndarray) -> str | None:
    """Return what goes wrong when images are restored; None if nothing does."""
    size = "x".join(map(str, images.shape))
    try:
        restored = np.asarray(model.predict_on_batch(images))
    except Exception as error:  # noqa: BLE001  (whatever a backend raises)
        return f"images of {size} cannot be restored: {_words(error)}"
    if restored.shape != images.shape:
        return f"images of {size} come back as {'x'.join(map(str, restored.shape))}"
    return None if np.isfinite(restored).all() else f"images of {size} come back with values that are no finite numbers"


def _latency_ms(model: Any, image: np.ndarray) -> float:
    times = []
    for call in range(WARM_UP + CALLS):
        started = time.perf_counter()
        model.predict_on_batch(image)
        if call >= WARM_UP:
            times.append(time.perf_counter() - started)
    return float(np.percentile(times, 95) * 1000)


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # not getrusage: a child's figure there begins with its parent's
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import psutil

    return float(psutil.Process().memory_info().rss / MIB)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def main() -> None:
    """Examine the model in the folder named on the command line, and print what was found."""
    runtime.configure()
    with runtime.silence_stderr():
        found = examine_model(Path(sys.argv[1]))
    print(ANSWER + json.dumps(found.model_dump(mode="json")))
    sys.stdout.flush()
    os._exit(0)  # a backend's threads have nothing to say any more


if __name__ == "__main__":
    main()
