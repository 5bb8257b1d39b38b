"""``dae trigger``."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dae import command_lines
from dae.cli import options

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from dae.config.schema import PipelineConfig
    from dae.promotion.reports import RunOutcome

CANCELLED = 3
CODES = (
    "Exit codes: 0 promoted, 10 refused by the gate, 3 cancelled or timed out, 2 bad usage or configuration, 1 failed."
)


def trigger(
    deployment: Annotated[
        str,
        typer.Argument(help="The name of a deployment, such as retrain, retrain-if-stale or ci.", show_default=False),
    ],
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="Continue an interrupted run with its own configuration.")
    ] = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    reason: options.Reason = None,
    approval_hours: options.ApprovalHours = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run until it ends.")] = True,
    timeout: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Stop waiting after this time. The run continues.", min=0.01)
    ] = None,
    summary: options.Summary = None,
    junit: options.Junit = None,
) -> None:
    """Start a run of a deployment on the Prefect server and follow its log. The exit code gives the verdict."""
    started = time.time()
    with options.reported():
        from dae.promotion import reports

        reports.require_writable(summary, junit)
        gate = options.gate_settings(dry_run, force, reason, approval_hours)
        run = _start(deployment, _config(config, resume, settings), [*(settings or []), *gate])
        if not wait:
            return
        try:
            outcome = _follow(run, deployment, None if timeout is None else timeout * 60, started)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            reports.write_outcome(reports.RunOutcome(name=run.name, ending="failed", message=message), summary, junit)
            raise
        _print(outcome)
        reports.write_outcome(outcome, summary, junit)
    if code := {"refused": options.REFUSED, "failed": options.ERROR}.get(
        outcome.ending, CANCELLED if outcome.ending in ("cancelled", "timed out") else 0
    ):
        raise typer.Exit(code)


def _config(file: Path | None, resume: str | None, settings: list[str] | None) -> PipelineConfig | None:
    """Return the configuration of the run, or None for that of the deployment."""
    from dae.config import loading
    from dae.config.schema import ConfigError
    from dae.tracking import runs
    from dae.tracking.client import TrackingError

    if resume is None:
        return loading.load(file) if file else None
    if file or settings:
        raise ConfigError("--resume takes the run's own configuration: leave out --config and --set")
    try:
        return runs.read_resumable_config(resume)
    except TrackingError as error:
        raise ConfigError(str(error)) from error


def _start(name: str, config: PipelineConfig | None, settings: list[str]) -> FlowRun:
    from dae.tracking.provenance import current_actor
    from flows.deployment.apply import connect_to_server
    from flows.deployment.trigger import find_deployment, make_parameters, run_url, start_run

    with connect_to_server() as client:
        deployment = find_deployment(client, name)
        run = start_run(client, deployment, make_parameters(deployment, config, settings), current_actor())
    typer.echo(f"{deployment.name}: run {run.name}, {run_url(run)}")
    return run


def _follow(run: FlowRun, deployment_name: str, seconds: float | None, started: float) -> RunOutcome:
    from dae.promotion.reports import RunOutcome
    from flows.deployment.apply import connect_to_server
    from flows.deployment.trigger import describe_ending, follow_run, run_url

    with connect_to_server() as client:
        try:
            state = follow_run(client, run.id, typer.echo, seconds)
        except KeyboardInterrupt:
            stop = command_lines.with_login(f"{command_lines.program_command('prefect')} flow-run cancel {run.id}")
            typer.echo(f"The run continues; to stop it: {stop}", err=True)
            raise
    message = (state.message or "") if state else f"not over after {(seconds or 0) / 60:g} minutes; the run continues"
    outcome = RunOutcome(
        name=run.name,
        ending=describe_ending(state),
        message=message,
        links={"Prefect": run_url(run)},
        seconds=time.time() - started,
    )
    return _with_verdict(outcome, str(run.id), deployment_name if state else None)


def _with_verdict(outcome: RunOutcome, flow_run_id: str, deployment: str | None) -> RunOutcome:
    """Return the outcome with the verdict from MLflow, or with a command that resumes a failed run.

    If MLflow does not answer, return the outcome as Prefect gives it.
    """
    from dae.promotion import reports
    from dae.tracking import runs
    from dae.tracking.client import run_url

    try:
        run_id = runs.find_run_of_flow_run(flow_run_id)
        if run_id is None:
            return outcome
        links = outcome.links | {"MLflow": run_url(run_id)}
        if outcome.ending not in ("completed", "refused"):
            hint = ""
            if deployment:
                resume = command_lines.dae_command(f"trigger {shlex.quote(deployment)} --resume {run_id}")
                hint = f" When the cause is fixed, go on with: {command_lines.with_login(resume)}"
            return outcome.model_copy(update={"links": links, "message": outcome.message + hint})
        return reports.make_outcome(reports.read_result(run_id), links, outcome.seconds)
    except Exception as error:  # noqa: BLE001  (the verdict is optional, whatever fails)
        typer.echo(f"warning: the verdict cannot be read from MLflow: {type(error).__name__}: {error}", err=True)
        return outcome


def _print(outcome: RunOutcome) -> None:
    from rich.markup import escape

    console = options.stdout_console()
    if outcome.result is not None:
        options.print_scores(outcome.name, outcome.result.scores)
        options.print_decision(outcome.result.version)
    else:
        colour = {"completed": "green"}.get(outcome.ending, "red")
        message = f": {escape(outcome.message)}" if outcome.message else ""
        console.print(f"\n[bold {colour}]{outcome.ending.capitalize()}[/]{message}", soft_wrap=True)
    for name, address in outcome.links.items():
        console.print(f"{name}: {escape(address)}", soft_wrap=True)
