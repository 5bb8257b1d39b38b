"""``dae sweep``."""

from __future__ import annotations

from typing import Annotated

import typer

from dae.cli import flow_runs, options


def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be closed, and change nothing.")] = False,
) -> None:
    """Close the runs that a killed process left as running, and say why; what still goes on is left alone."""
    with options.reported():
        flow_runs.run("flows.close_orphaned_runs", "close_orphaned_runs", dry_run)  # whose log says it all
