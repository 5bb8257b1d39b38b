"""``dae runs`` and ``dae ui``."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from dae.cli import options


def runs(
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
    experiment: Annotated[
        str | None, typer.Option(help="Only the runs of this MLflow experiment.", show_default=False)
    ] = None,
) -> None:
    """List the runs, the newest first, with their scores and verdicts."""
    from dae import run_table

    table = run_table.runs(experiment)
    if as_json:
        typer.echo(json.dumps(run_table.records(table), indent=2))
        return
    if table.empty:
        typer.echo(f"No runs{f' in experiment {experiment}' if experiment else ''} yet. Make one with: dae train")
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(*run_table.HEADER)
    for row in run_table.rows(table):
        shown.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe has no width: cut nothing short
    console.print(shown)


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the local server.")] = 5000,
) -> None:
    """Open MLflow's UI on the store in use, until interrupted."""
    from dae import tracking

    uri = tracking.store_uri()
    if uri.startswith(("http://", "https://")):
        typer.echo(f"The runs are at {uri}")
        typer.launch(uri)
        return
    tracking.connect()
    typer.echo(f"MLflow's UI on {uri}: http://127.0.0.1:{port} (stop with Ctrl-C)")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    try:
        os.execv(sys.executable, [*command, "--port", str(port), "--workers", "1"])
    except OSError as error:
        raise options.fail(f"MLflow's server could not be started: {error}", options.ERROR) from error
