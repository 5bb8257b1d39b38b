"""Runs the benchmarks named on the command line, or all of them, and writes docs/benchmarks.md and its picture."""

from __future__ import annotations

import importlib
import sys

from benchmarks import page
from dae import runtime

NAMES = ("target", "quality", "noise", "starving", "inference", "service", "denoising", "scale", "memory", "overhead")


def main() -> None:
    """Run each benchmark, print its table, and renew its part of the page."""
    chosen = sys.argv[1:] or NAMES
    if unknown := sorted(set(chosen) - set(NAMES)):
        raise SystemExit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    runtime.configure()
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in NAMES}
    for name in chosen:
        rows = modules[name].measure()
        page.show(modules[name], rows)
        page.record(name, rows)
    page.write(modules)


if __name__ == "__main__":
    main()
