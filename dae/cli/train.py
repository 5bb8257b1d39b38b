"""``dae train``."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer

from dae.cli import options

if TYPE_CHECKING:
    from dae.config import PipelineConfig
    from dae.records import PipelineResult


def train(
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="Go on with an interrupted run, under its own configuration.")
    ] = None,
) -> None:
    """Train a denoiser: ingest, corrupt, train, evaluate, and register it as champion if the gate lets it pass."""
    started = _process_start()
    from dae import backend

    resolved = _resolve(config, settings, resume)
    typer.echo(f"{resolved.run_name}: starting")
    # Keras takes seconds to import; Prefect's server takes seconds to start, in a process of its own.
    threading.Thread(target=backend.import_keras, daemon=True).start()
    result = _run(resolved)
    _print(result, time.time() - started)
    if not result.version.verdict.promoted:
        raise typer.Exit(options.REFUSED)


def _process_start() -> float:
    import psutil

    return float(psutil.Process().create_time())


def _resolve(config: options.ConfigFile, settings: options.Settings, resume: str | None) -> PipelineConfig:
    from dae import config_files

    with options.refusing_bad_config():
        if resume is None:
            return config_files.load(config, settings or [])
        if config or settings:
            raise options.fail(
                "--resume takes the run's own configuration: leave out --config and --set", options.USAGE
            )
        from dae import tracking

        try:
            recorded = tracking.config_of(resume)
        except tracking.TrackingError as error:
            raise options.fail(str(error), options.USAGE) from error
        return recorded.model_copy(update={"tracking": recorded.tracking.model_copy(update={"resume": resume})})


def _run(config: PipelineConfig) -> PipelineResult:
    from flows.train import train_denoiser

    with options.refusing_bad_config():
        try:
            return train_denoiser(config)
        except (KeyboardInterrupt, typer.Exit):
            raise
        except Exception as error:
            from dae.config import ConfigError

            if isinstance(error, ConfigError):
                raise
            raise options.fail(f"{type(error).__name__}: {error}", options.ERROR) from error


def _print(result: PipelineResult, total: float) -> None:
    from rich.console import Console
    from rich.table import Table

    from dae import report, tracking

    console = Console(highlight=False)
    table = Table(*report.HEADER, title=f"\n{result.run_name}", title_justify="left", title_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report.rows(result.scores):
        table.add_row(*row, style="bold" if row[0] == "all" else None)
    console.print(table)
    verdict = result.version.verdict
    for check in verdict.checks:
        console.print(f"  [{'green]passed' if check.passed else 'red]failed'}[/] {check.reason}")
    for reason in () if verdict.checks else verdict.reasons:
        console.print(f"  [red]failed[/] {reason}")
    console.print(f"\n[bold {'green' if verdict.promoted else 'red'}]{report.headline(result.version)}[/]")
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.seconds.items())
    rest = total - sum(result.seconds.values())
    console.print(f"Time: {total:.0f} s ({parts}, everything else {rest:.1f})")
    console.print(f"MLflow run {result.run_id} at {tracking.store_uri()}", soft_wrap=True)
    console.print("Look at it with [bold]dae ui[/], compare runs with [bold]dae runs[/].")
