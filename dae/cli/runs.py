"""``dae runs`` and ``dae ui``."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from dae import command_lines
from dae.cli import options


def runs(
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
    experiment: Annotated[
        str | None, typer.Option(help="Only the runs of this MLflow experiment.", show_default=False)
    ] = None,
) -> None:
    """List the runs, the newest first, with their scores and verdicts."""
    with options.reported():
        from dae.promotion import tables

        table = tables.read_runs(experiment)
        if as_json:
            typer.echo(json.dumps(tables.as_records(table), indent=2))
            return
    if table.empty:
        where = f" in experiment {experiment}" if experiment else ""
        typer.echo(f"No runs{where} yet. Make one with: {command_lines.dae_command('train')}")
        return
    options.print_table(tables.RUNS_HEADER, tables.run_rows(table))


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the local server.")] = 5000,
) -> None:
    """Open MLflow's UI on the current store. Stop it with Ctrl-C."""
    with options.reported():
        from dae.tracking.client import connect, store_uri

        uri = store_uri()
        connect()
        if uri.startswith(("http://", "https://")):
            typer.echo(f"The runs are at {uri}")
            typer.launch(uri)
            return
        options.claim(port).close()
    typer.echo(f"MLflow's UI on {uri}: http://{options.HOST}:{port} (stop with Ctrl-C)")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", options.HOST]
    os.execv(sys.executable, [*command, "--port", str(port), "--workers", "1"])
