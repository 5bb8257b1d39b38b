"""Overhead: what a run costs beside ingest, corrupt, train and evaluate, the first time and later."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from benchmarks import flows
from benchmarks.measure import Row

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
STAGES = ("ingest", "corrupt", "train", "evaluate")


def measure() -> list[Row]:
    """Run the smoke configuration four times from a bare home: the first run, and the later ones."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(4):
            measured = flows.train(Path(folder), "--config", str(SMOKE))
            text = (Path(folder) / "log.txt").read_text()
            stages = [float(re.findall(rf"{stage} ([0-9.]+)", text)[-1]) for stage in STAGES]
            runs.append((measured.seconds, measured.seconds - sum(stages)))
    first, *later = runs
    return [
        Row("whole command, first run", "s", first[:1]),
        Row("beside the four stages, first run", "s", first[1:]),
        Row("whole command, later runs", "s", tuple(whole for whole, _ in later)),
        Row("beside the four stages, later runs", "s", tuple(beside for _, beside in later)),
    ]
