"""``dae train``."""

from __future__ import annotations

import logging
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dae import command_lines
from dae.cli import flow_runs, options

if TYPE_CHECKING:
    from dae.config.schema import PipelineConfig
    from dae.promotion.schemas import ModelVersion, PipelineResult


def train(
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="Continue an interrupted run with its own configuration.")
    ] = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    reason: options.Reason = None,
    approval_hours: options.ApprovalHours = None,
    summary: options.Summary = None,
    junit: options.Junit = None,
) -> None:
    """Train a denoiser, evaluate it, register it, and make it the champion if it passes the gate."""
    started = _process_start()
    with options.reported():
        from dae.promotion import reports

        reports.require_writable(summary, junit)
        gate = options.gate_settings(dry_run, force, reason, approval_hours)
        resolved = _resolve(config, [*(settings or []), *gate] or None, resume)
        typer.echo(f"{resolved.run_name}: starting")
        with _report_failure(resolved.run_name, summary, junit, started):
            result: PipelineResult = flow_runs.run("flows.train", "train_denoiser", resolved)
    _print(result, time.time() - started)
    with options.reported():
        from dae.tracking.client import run_url

        links = {"MLflow": run_url(result.run_id)}
        reports.write_outcome(reports.make_outcome(result, links, time.time() - started), summary, junit)
        _show_examples(resolved, result.version)
        _print_next(result.version.name)
    if not result.version.decision.promoted:
        raise typer.Exit(options.REFUSED)


@contextmanager
def _report_failure(name: str, summary: Path | None, junit: Path | None, started: float) -> Iterator[None]:
    """Write the failure of a run to the files of --summary and --junit."""
    from dae.promotion import reports

    try:
        yield
    except BaseException as error:
        ending: reports.Ending = "failed" if isinstance(error, Exception) else "cancelled"
        message = f"{type(error).__name__}: {error}"
        seconds = time.time() - started
        reports.write_outcome(
            reports.RunOutcome(name=name, ending=ending, message=message, seconds=seconds), summary, junit
        )
        raise


def _process_start() -> float:
    import psutil

    return float(psutil.Process().create_time())


def _resolve(config: options.ConfigFile, settings: options.Settings, resume: str | None) -> PipelineConfig:
    from dae.config import loading

    if resume is None:
        return loading.load(config, settings or [])
    if config or settings:
        raise options.fail(
            "--resume takes the run's own configuration: leave out --config and --set and the gate's switches",
            options.USAGE,
        )
    from dae.tracking import runs
    from dae.tracking.client import TrackingError

    try:
        return runs.read_resumable_config(resume)
    except TrackingError as error:
        raise options.fail(str(error), options.USAGE) from error


def _print(result: PipelineResult, total: float) -> None:
    from rich.markup import escape

    from dae.tracking.client import store_uri

    options.print_scores(result.run_name, result.scores)
    options.print_decision(result.version)
    console = options.stdout_console()
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.seconds.items())
    rest = total - sum(result.seconds.values())
    console.print(f"Time: {total:.0f} s ({parts}, everything else {rest:.1f})", soft_wrap=True)
    console.print(f"MLflow run {result.run_id} at {escape(store_uri())}", soft_wrap=True)


def _show_examples(config: PipelineConfig, version: ModelVersion) -> None:
    """Write noisy files of the test set and restore them as a user would. An error here does not change the exit code."""
    from dae import storage
    from dae.cli.denoise import restore_files
    from dae.evaluation import example_files
    from dae.inference.files import CHAMPION, plan_files

    folder = storage.cache_folder() / "examples" / f"{version.name}-{version.version}"
    noisy, restored = folder / "noisy", folder / "restored"
    model = f"models:/{version.name}/{version.version}"
    if version.decision.promoted and version.name == options.MODEL_NAME:
        model = CHAMPION
    paths = [shlex.quote(command_lines.display_path(path)) for path in (noisy, restored)]
    model_option = "" if model == CHAMPION else f" --model {shlex.quote(model)}"
    logging.disable(logging.INFO)  # the run has logged the same lines before
    try:
        shutil.rmtree(folder, ignore_errors=True)
        files = example_files.write_noisy_examples(config, noisy)
        typer.echo(f"\nExamples: {len(files)} noisy files made of the test images, restored by")
        typer.echo(f"  {command_lines.dae_command(f'denoise {paths[0]} -o {paths[1]} --overwrite{model_option}')}")
        restore_files(
            plan_files([str(noisy)], restored), model, Path(command_lines.display_path(restored)), overwrite=True
        )
    except Exception as error:  # noqa: BLE001
        typer.echo(f"warning: no examples: {type(error).__name__}: {error}", err=True)
    finally:
        logging.disable(logging.NOTSET)


def _print_next(name: str) -> None:
    """Print useful next commands as they are typed. Without a champion, commands that need one are left out."""
    from dae.promotion import registry

    model = "" if name == options.MODEL_NAME else f" --model {shlex.quote(f'models:/{name}@champion')}"
    steps = [("look at the run", "ui"), ("compare runs", "runs")]
    if registry.find_champion(name) is not None:
        champion_steps = [
            ("restore an image", f"denoise noisy.png -o clean/{model}"),
            ("serve the champion", f"serve{model}"),
        ]
        steps = [champion_steps[0], *steps, champion_steps[1]]
    typer.echo("\nNext:")
    for purpose, arguments in steps:
        typer.echo(f"  {purpose:20}{command_lines.dae_command(arguments)}")
