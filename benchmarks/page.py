"""docs/benchmarks.md and its picture, from the figures of the last time each benchmark ran."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row, spread
from dae import storage
from dae.evaluation import figures
from dae.tracking import provenance

DOCS = Path(__file__).parents[1] / "docs"
HEADER = ("what", "unit", "this project", "reference", "times better", "asked for")
INTRODUCTION = """\
# Benchmarks

`make bench` measures all of this again and rewrites this page; `make bench ARGS=noise` does so for one part. Both sides of a
line are measured in turn, in one run on one machine. A figure is the median of repeated runs, with the least and the greatest
in brackets. "Times better" is worked out for each repeat by itself; a line without it has nothing to be compared with.

![How many times better than the reference](benchmarks.png)
"""


def record(name: str, rows: list[Row], docs: Path = DOCS) -> None:
    """Keep the figures of a benchmark, with when and where they were measured."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    kept = _kept(docs) | {name: {"when": now, "machine": _machine(), "rows": [asdict(row) for row in rows]}}
    storage.write_text(docs / "benchmarks.json", json.dumps(kept, indent=1) + "\n")


def show(module: ModuleType, rows: list[Row]) -> None:
    """Print a benchmark's table."""
    table = Table(*HEADER, title=_title(module), title_justify="left")
    for row in rows:
        table.add_row(*_cells(row))
    Console(width=150).print("", table)


def write(modules: dict[str, ModuleType], docs: Path = DOCS) -> None:
    """Write the page and the picture from everything that was ever recorded, in the order of `modules`."""
    kept = _kept(docs)
    parts = {name: [_row(row) for row in kept[name]["rows"]] for name in modules if name in kept}
    text = [INTRODUCTION]
    for name, rows in parts.items():
        text.append(f"\n## {_title(modules[name])}\n\n{_notes(modules[name])}")
        text.append(f"{kept[name]['machine']}; {kept[name]['when']}; `make bench ARGS={name}`.\n\n")
        text += [f"| {' | '.join(line)} |\n" for line in (HEADER, ["---"] * len(HEADER), *map(_cells, rows))]
    storage.write_text(docs / "benchmarks.md", "".join(text))
    figures.save_figure(picture(parts), docs / "benchmarks.png")


def picture(parts: dict[str, list[Row]]) -> Figure:
    """Return the ratios as bars on a logarithmic scale, with their spread and what was asked for."""
    lines = [(name, row) for name, rows in parts.items() for row in rows if row.reference]
    figure = Figure(figsize=(9.6, 0.3 * len(lines) + 1.2), layout="constrained")
    axis = figure.subplots()
    for place, (_, row) in enumerate(lines):
        middle = statistics.median(row.ratios)
        reach = [[middle - min(row.ratios)], [max(row.ratios) - middle]]
        missed = row.target is not None and middle < row.target
        axis.barh(place, middle - 1, left=1, color="#c0392b" if missed else "#0b6fb8", height=0.62)
        axis.errorbar(middle, place, xerr=reach, color="#22303c", lw=1, capsize=2)
        axis.annotate(
            f"{middle:.3g}", (max(*row.ratios, 1), place), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
        if row.target:
            axis.plot([row.target] * 2, [place - 0.45, place + 0.45], color="#e08a00", lw=2.5)
    axis.set(xscale="log", xlabel="times better than the reference; orange: asked for, red: missed")
    axis.set_yticks(range(len(lines)), [f"{name}: {row.what}" for name, row in lines], fontsize=8)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.axvline(1, color="#22303c", lw=0.8)
    axis.margins(x=0.1)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _kept(docs: Path) -> dict[str, dict[str, Any]]:
    record = docs / "benchmarks.json"
    return dict(json.loads(record.read_text())) if record.exists() else {}


def _row(fields: dict[str, Any]) -> Row:
    listed = {key: tuple(fields[key]) for key in ("ours", "reference")}
    return Row(**(fields | listed))


def _title(module: ModuleType) -> str:
    return str(module.__doc__).partition("\n")[0].removesuffix(".")


def _notes(module: ModuleType) -> str:
    notes = str(module.__doc__).partition("\n")[2].strip()
    return f"{notes}\n\n" if notes else ""


def _cells(row: Row) -> list[str]:
    reference = f"{spread(row.reference)}: {row.than}" if row.reference else ""
    target = "" if row.target is None else f"{row.target:.3g}"
    return [row.what, row.unit, spread(row.ours), reference, spread(row.ratios), target]


def _machine() -> str:
    machine = provenance.describe_machine()
    return f"{os.cpu_count()} cores of {_processor()}, {machine['system']}, Python {platform.python_version()}"


def _processor() -> str:
    """Return the processor's name as Linux has it, or what Python knows."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
