"""The ``dae`` command. Heavy libraries are imported inside the commands, so that its help answers at once."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from dae.cli import baselines, config, export, runs, strengths, train

app = typer.Typer(
    name="dae",
    help="Train convolutional denoising autoencoders, and promote a model only when it has earned it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog="Exit codes: 0 promoted, 10 refused by the gate, 2 bad usage or configuration, 1 error.")(
    train.train
)
app.command()(baselines.baselines)
app.command()(runs.runs)
app.command()(runs.ui)
app.command()(config.config)
app.command()(export.export)
app.command()(strengths.strengths)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dae {importlib.metadata.version('dae')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    from dae import backend

    backend.configure(terminal=True)


def main() -> None:
    """Run the command line."""
    app()
