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
    with options.reported():
        resolved = _resolve(config, settings, resume)
        typer.echo(f"{resolved.run_name}: starting")
        result = _run(resolved)
    _print(result, time.time() - started)
    if not result.version.verdict.promoted:
        raise typer.Exit(options.REFUSED)


def _process_start() -> float:
    import psutil

    return float(psutil.Process().create_time())


def _resolve(config: options.ConfigFile, settings: options.Settings, resume: str | None) -> PipelineConfig:
    from dae import config_files

    if resume is None:
        return config_files.load(config, settings or [])
    if config or settings:
        raise options.fail("--resume takes the run's own configuration: leave out --config and --set", options.USAGE)
    from dae import past_runs, tracking

    try:
        return past_runs.resumable(resume)
    except tracking.TrackingError as error:
        raise options.fail(str(error), options.USAGE) from error


def _run(config: PipelineConfig) -> PipelineResult:
    """Run the flow. Its server starts, in processes of its own, while Prefect, MLflow and Keras are imported here."""
    from dae import backend
    from flows import server

    url = server.start()
    importing = threading.Thread(target=backend.import_keras, daemon=True)
    importing.start()
    try:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from flows.train import train_denoiser

        with temporary_settings({PREFECT_API_URL: url()}):
            return train_denoiser(config)
    finally:
        importing.join()  # it mutes standard error, where an error is about to be told


def _print(result: PipelineResult, total: float) -> None:
    from rich.markup import escape
    from rich.table import Table

    from dae import report, tracking

    console = options.console()
    table = Table(*report.HEADER, title=f"\n{escape(result.run_name)}", title_justify="left", title_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report.rows(result.scores):
        table.add_row(*row, style="bold" if row[0] == "all" else None)
    console.print(table)
    verdict = result.version.verdict
    for check in verdict.checks:
        console.print(f"  [{'green]passed' if check.passed else 'red]failed'}[/] {escape(check.reason)}")
    for reason in () if verdict.checks else verdict.reasons:
        console.print(f"  [red]failed[/] {escape(reason)}")
    headline = escape(report.headline(result.version))
    console.print(f"\n[bold {'green' if verdict.promoted else 'red'}]{headline}[/]")
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.seconds.items())
    rest = total - sum(result.seconds.values())
    console.print(f"Time: {total:.0f} s ({parts}, everything else {rest:.1f})", soft_wrap=True)
    console.print(f"MLflow run {result.run_id} at {escape(tracking.store_uri())}", soft_wrap=True)
    console.print("Look at it with [bold]dae ui[/], compare runs with [bold]dae runs[/].")
