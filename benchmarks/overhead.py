"""Overhead: what a run costs beside ingest, corrupt, train and evaluate, the first time and later."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import flows

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
STAGES = ("ingest", "corrupt", "train", "evaluate")


def main() -> None:
    """Run the smoke configuration four times from a bare home, and print where the time went."""
    table = Table("run", "whole command", *STAGES, "everything else")
    with tempfile.TemporaryDirectory() as folder:
        for run in ("first", "second", "third", "fourth"):
            measured = flows.train(Path(folder), "--config", str(SMOKE))
            text = (Path(folder) / "log.txt").read_text()
            stages = [float(re.findall(rf"{stage} ([0-9.]+)", text)[-1]) for stage in STAGES]
            cells = [measured.seconds, *stages, measured.seconds - sum(stages)]
            table.add_row(run, *(f"{value:.1f} s" for value in cells))
    Console(width=110).print("\nTime of `dae train --config configs/smoke.yaml`, by part", table)
