"""Runs of the command ``dae train`` in a process of their own, measured from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from mlflow import MlflowClient


@dataclass(frozen=True)
class Measured:
    """Wall time of a command in seconds, and the largest resident memory of its processes together, in GiB."""

    seconds: float
    peak_gib: float


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a command that stores everything below `home` and knows no server."""
    elsewhere = {"HOME": str(home), "PREFECT_HOME": str(home / ".prefect"), "DAE_HOME": str(home)}
    here = os.environ | elsewhere
    return {name: value for name, value in here.items() if name not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}


def train(home: Path, *arguments: str) -> Measured:
    """Run ``dae train`` with everything it stores below `home`, sampling the memory of its processes.

    Raises
    ------
    SystemExit
        If the command ends with an error.
    """
    started = time.perf_counter()
    with (home / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "dae.cli", "train", *arguments]
        process = psutil.Popen(command, env=environment(home), stdout=log, stderr=subprocess.STDOUT)
    peak = 0
    while True:
        try:
            process.wait(timeout=0.2)
            break
        except psutil.TimeoutExpired:
            peak = max(peak, _resident(process))
    if process.returncode not in (0, 10):
        raise SystemExit((home / "log.txt").read_text())
    return Measured(time.perf_counter() - started, peak / 2**30)


def _resident(process: psutil.Process) -> int:
    found = 0
    for each in (process, *process.children(recursive=True)):
        try:
            found += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return found


def metrics(home: Path, run_id: str) -> dict[str, float]:
    """Return the metrics of a run that `train` made below `home`."""
    client = MlflowClient(f"sqlite:///{home / 'mlruns' / 'mlflow.db'}")
    return dict(client.get_run(run_id).data.metrics)
