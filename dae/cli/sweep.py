"""``dae sweep``."""

from __future__ import annotations

from typing import Annotated

import typer

from dae.cli import flow_runs, options


def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be closed, and change nothing.")] = False,
) -> None:
    """Close the runs whose process was killed, and log why. Runs in progress are not touched."""
    with options.reported():
        flow_runs.run("flows.close_orphaned_runs", "close_orphaned_runs", dry_run)  # the log of the flow is the output
