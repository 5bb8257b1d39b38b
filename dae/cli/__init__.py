"""The ``dae`` command. Heavy libraries are imported inside the commands, so that its help answers at once."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Annotated

import typer

from dae import command_lines
from dae.cli import (
    baselines,
    config,
    denoise,
    deploy,
    export,
    gc,
    models,
    options,
    promotion,
    reproduce,
    runs,
    serve,
    services,
    strengths,
    sweep,
    train,
    trigger,
    worker,
)

CODES = "Exit codes: 0 promoted, 10 refused by the gate, 2 bad usage or configuration, 1 error."
app = typer.Typer(
    name="dae",
    help="Train convolutional denoising autoencoders, and promote a model only when it has earned it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog=CODES)(train.train)
app.command(epilog="Exit codes: 0 all done, 1 an error or some file not done, 2 bad usage.")(denoise.denoise)
app.command()(baselines.baselines)
app.add_typer(models.app, name="models")
app.command(epilog=CODES)(promotion.promote)
app.command()(promotion.rollback)
app.command()(promotion.approve)
app.command()(runs.runs)
app.command()(runs.ui)
app.command()(config.config)
app.command()(export.export)
app.command()(strengths.strengths)
app.command()(serve.serve)
app.command(epilog="Exit codes: 0 reproduced, 10 not reproduced, 2 bad usage, 1 error.")(reproduce.reproduce)
app.command(epilog="Exit codes: 0 done, 2 bad usage, 1 error.")(gc.gc)
app.add_typer(services.app, name="services")
app.command()(worker.worker)
app.command(epilog=trigger.CODES)(trigger.trigger)
app.command()(sweep.sweep)
app.command(epilog="Exit codes: 0 done, or nothing differs, 10 something differs, 2 bad usage, 1 error.")(deploy.deploy)


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
    from dae import runtime

    runtime.configure(terminal=True)
    if os.environ["KERAS_BACKEND"] != "tensorflow":  # the rule for what is asked for takes an import
        with options.reported():
            options.require_keras_backend()


def main() -> None:
    """Run the command line; its usage messages call it as it was called."""
    app(prog_name=command_lines.dae_command())
