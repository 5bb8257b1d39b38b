"""The ``dae`` command. Heavy libraries are imported inside the commands, so that the help appears at once."""

from __future__ import annotations

import os
import sys
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
from dae.cli.help import MODELS, TEAM, TRAIN, USE, Command, Group, epilog

CODES = "Exit codes: 0 promoted, 10 refused by the gate, 2 bad usage or configuration, 1 error."
DENOISE_CODES = "Exit codes: 0 all done, 1 an error or some file not done, 2 bad usage."
DEPLOY_CODES = "Exit codes: 0 done, or nothing differs, 10 something differs, 2 bad usage, 1 error."
GC_CODES = "Exit codes: 0 done, 2 bad usage, 1 error."
REPRODUCE_CODES = "Exit codes: 0 reproduced, 10 not reproduced, 2 bad usage, 1 error."

app = typer.Typer(
    name="dae",
    help="Train denoising autoencoders, compare them, and use only models that pass a quality gate.",
    cls=Group,
    epilog=epilog("dae train", "dae denoise noisy.png -o clean/"),
    context_settings={"help_option_names": ["--help", "-h"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.command(
    cls=Command,
    rich_help_panel=TRAIN,
    epilog=epilog("dae train", "dae train --config configs/smoke.yaml --set train.epochs=3", codes=CODES),
)(train.train)
app.command(cls=Command, rich_help_panel=TRAIN, epilog=epilog("dae runs", "dae runs --experiment denoising --json"))(
    runs.runs
)
app.command(cls=Command, rich_help_panel=TRAIN, epilog=epilog("dae ui", "dae ui --port 5050"))(runs.ui)
app.command(
    cls=Command,
    rich_help_panel=TRAIN,
    epilog=epilog(
        "dae baselines --methods noisy_input,median,nlm --images 200",
        "dae baselines --model models:/dae@champion --markdown",
    ),
)(baselines.baselines)
app.command(
    cls=Command,
    rich_help_panel=TRAIN,
    epilog=epilog("dae strengths", "dae strengths --model 4 --model 3 --split validation --markdown noise.md"),
)(strengths.strengths)
app.command(
    cls=Command,
    rich_help_panel=TRAIN,
    epilog=epilog(
        "dae reproduce models:/dae@champion", "dae reproduce 4f4d653f --tolerance 0 --here", codes=REPRODUCE_CODES
    ),
)(reproduce.reproduce)
app.command(
    cls=Command, rich_help_panel=TRAIN, epilog=epilog("dae config --config configs/smoke.yaml", "dae config --schema")
)(config.config)

app.add_typer(models.app, name="models", rich_help_panel=MODELS)
app.command(
    cls=Command,
    rich_help_panel=MODELS,
    epilog=epilog("dae promote 7 --dry-run", 'dae promote 7 --force --reason "demo on Friday"', codes=CODES),
)(promotion.promote)
app.command(
    cls=Command,
    rich_help_panel=MODELS,
    epilog=epilog('dae rollback --reason "it blurs"', 'dae rollback --to 3 --reason "it blurs"'),
)(promotion.rollback)
app.command(
    cls=Command,
    rich_help_panel=MODELS,
    epilog=epilog("dae approve FLOW_RUN --yes", 'dae approve FLOW_RUN --no --comment "it blurs"'),
)(promotion.approve)
app.command(
    cls=Command,
    rich_help_panel=MODELS,
    epilog=epilog("dae gc --older-than 30d", "dae gc --older-than 30d --delete", codes=GC_CODES),
)(gc.gc)

app.command(
    cls=Command,
    rich_help_panel=USE,
    epilog=epilog(
        "dae denoise noisy.png -o clean.png",
        "dae denoise scans/ -o restored/ --model models:/dae/3 --strength 0.8",
        codes=DENOISE_CODES,
    ),
)(denoise.denoise)
app.command(
    cls=Command, rich_help_panel=USE, epilog=epilog("dae serve", "dae serve --model models:/dae/3 --port 8080")
)(serve.serve)
app.command(cls=Command, rich_help_panel=USE, epilog=epilog("dae export models:/dae@champion --onnx denoiser.onnx"))(
    export.export
)

app.add_typer(services.app, name="services", rich_help_panel=TEAM)
app.command(cls=Command, rich_help_panel=TEAM, epilog=epilog("dae deploy --check", "dae deploy", codes=DEPLOY_CODES))(
    deploy.deploy
)
app.command(
    cls=Command,
    rich_help_panel=TEAM,
    epilog=epilog(
        "dae trigger retrain --set train.epochs=3",
        "dae trigger ci --timeout 30 --junit verdict.xml",
        codes=trigger.CODES,
    ),
)(trigger.trigger)
app.command(cls=Command, rich_help_panel=TEAM, epilog=epilog("dae worker", "dae worker --pool dae"))(worker.worker)
app.command(cls=Command, rich_help_panel=TEAM, epilog=epilog("dae sweep --dry-run", "dae sweep"))(sweep.sweep)


def _print_version(value: bool) -> None:
    if value:
        from dae import __version__

        typer.echo(f"dae {__version__}")
        raise typer.Exit


@app.callback()
def _configure(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    from dae import runtime

    runtime.configure(terminal=True)
    if os.environ["KERAS_BACKEND"] != "tensorflow":  # the check of another backend needs an import
        with options.reported():
            options.require_keras_backend()


def main() -> None:
    """Run the command line. Usage messages name the command as it was typed.

    Shell completion needs the bare name: a path is no valid part of a shell function or of an environment variable.
    """
    completion = {"--install-completion", "--show-completion"} & set(sys.argv[1:])
    name = "dae" if completion else command_lines.dae_command()
    app(prog_name=name, complete_var="_DAE_COMPLETE")
