"""Runs the benchmarks named on the command line, or all of them: ``python -m benchmarks [noise] [memory] [overhead]``."""

from __future__ import annotations

import importlib
import sys

NAMES = ("noise", "memory", "overhead")


def main() -> None:
    """Run each benchmark and print its table."""
    chosen = sys.argv[1:] or NAMES
    if unknown := sorted(set(chosen) - set(NAMES)):
        raise SystemExit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for name in chosen:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
