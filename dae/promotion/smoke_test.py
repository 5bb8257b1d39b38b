"""The smoke test of a registered version: it is downloaded and used in a separate process, which has only the files."""

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
ANSWER = "smoke test: "
MACHINE_ERRORS = {errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM}


class SmokeTestError(RuntimeError):
    """The smoke test could not be run, for a reason that does not lie in the version."""


def run_smoke_test(name: str, version: str) -> SmokeTestResult:
    """Download a version, and return what it does in a clean process.

    If something is wrong with the version, the result says so. An error means that the smoke test itself could not be run.

    Raises
    ------
    RegistryError
        If there is no such version.
    SmokeTestError
        If the process was killed, took too long, or could not start.
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
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise SmokeTestError(f"the smoke test of a version was not done after {TIMEOUT} s") from error
    lines = [line for line in result.stdout.splitlines() if line.startswith(ANSWER)]
    if result.returncode != 0 or not lines:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise SmokeTestError(f"the smoke test of a version ended with exit code {result.returncode}: {last}")
    return SmokeTestResult.model_validate_json(lines[-1].removeprefix(ANSWER))


def examine_model(folder: Path) -> SmokeTestResult:
    """Return the result of the smoke test of the model in a folder, without the digest recorded in the registry.

    Parameters
    ----------
    folder : Path
        As a model is logged: ``data/model.keras``, and ``reference.npz`` with its outputs at that time.
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
        if getattr(error, "errno", None) in MACHINE_ERRORS:  # not the fault of the version
            raise
        return SmokeTestResult(error=_error_text(error), **facts)
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
    except Exception:  # noqa: BLE001  (any error of a backend means that the outputs are not the recorded ones)
        return math.inf


def _trouble(model: Any, images: np.ndarray) -> str | None:
    """Return what goes wrong when images are restored; None if nothing goes wrong."""
    size = "x".join(map(str, images.shape))
    try:
        restored = np.asarray(model.predict_on_batch(images))
    except Exception as error:  # noqa: BLE001  (any error of a backend)
        return f"images of {size} cannot be restored: {_error_text(error)}"
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
    if status.exists():  # getrusage would start with the peak of the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import psutil

    return float(psutil.Process().memory_info().rss / MIB)


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def main() -> None:
    """Examine the model in the folder named on the command line, and print the result as JSON."""
    runtime.configure()
    with runtime.silence_stderr():
        result = examine_model(Path(sys.argv[1]))
    print(ANSWER + json.dumps(result.model_dump(mode="json")))
    sys.stdout.flush()
    os._exit(0)  # do not wait for the threads of a backend


if __name__ == "__main__":
    main()
