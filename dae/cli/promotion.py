"""``dae promote``, ``dae rollback`` and ``dae approve``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dae.cli import flow_runs, options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from dae.promotion.schemas import PromotionResult
    from flows.promote import PromotionRequest


def promote(
    version: Annotated[str, typer.Argument(help="A version number.", show_default=False)],
    name: options.Name = options.MODEL_NAME,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="gate.NAME=VALUE",
            help="Change one value of the gate in the run's configuration. Can be repeated.",
        ),
    ] = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    reason: options.Reason = None,
    approval_hours: options.ApprovalHours = None,
) -> None:
    """Put a registered version through the gate, and make it the champion if it passes."""
    with options.reported():
        gate = options.gate_settings(dry_run, force, reason, approval_hours)
        request = _request(name, version, [*(settings or []), *gate])
        result: PromotionResult = flow_runs.run("flows.promote", "promote_version", request)
    options.print_scores(f"{name} version {version}", result.scores)
    options.print_decision(result.version)
    if not result.version.decision.promoted:
        raise typer.Exit(options.REFUSED)


def _request(name: str, version: str, settings: Sequence[str]) -> PromotionRequest:
    """Return the request for the flow. The version and the settings are checked before any server starts."""
    from dae.config import loading
    from dae.config.schema import ConfigError
    from dae.promotion import registry
    from dae.tracking import runs
    from flows.promote import PromotionRequest

    if strange := [setting for setting in settings if not setting.startswith("gate.")]:
        raise ConfigError(f"--set must be of the gate here, such as gate.max_val_mse=0.01, received {strange[0]}")
    if not version.isdecimal():
        raise ConfigError(f"VERSION must be a whole number, received {version}")
    candidate = registry.get_candidate(name, version)
    if registry.find_champion(name) == candidate.version:
        raise registry.RegistryError(f"version {candidate.version} of {name} is the champion already")
    config = runs.read_config(candidate.run_id)
    policy = config.model_copy(update={"gate": config.gate.without_switches()})
    return PromotionRequest(
        version=candidate.version, model_name=name, gate=loading.with_settings(policy, settings).gate
    )


def rollback(
    reason: Annotated[str, typer.Option(help="The reason. It is stored in the audit log.", show_default=False)],
    to: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="A former champion.", show_default="the previous champion"),
    ] = None,
    name: options.Name = options.MODEL_NAME,
) -> None:
    """Make the previous champion the champion again, after a smoke test."""
    with options.reported():
        from dae.config.schema import ConfigError
        from dae.promotion.rollback import rollback as restore_champion
        from dae.promotion.smoke_test import run_smoke_test

        if not reason.strip():
            raise ConfigError("--reason must say why, received an empty text")
        entry = restore_champion(name, reason, lambda version: run_smoke_test(name, version), to)
    typer.echo(
        f"Rolled back: {name} version {entry.version} is the champion again, in place of version {entry.against}."
    )


def approve(
    flow_run: Annotated[
        str, typer.Argument(metavar="FLOW_RUN", help="Id of the flow run that waits.", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes/--no", help="Approve or refuse.", show_default=False)],
    comment: Annotated[str, typer.Option(help="A comment. It is stored in the audit log.")] = "",
) -> None:
    """Answer a flow run that waits for approval. $PREFECT_API_URL must name its server."""
    with options.reported():
        from uuid import UUID

        from dae.config.schema import ConfigError
        from dae.tracking import provenance

        try:
            run_id = UUID(flow_run)
        except ValueError:
            raise ConfigError(f"the flow run must be given by its id, received {flow_run}") from None
        _answer(run_id, {"approve": yes, "who": provenance.current_actor(), "comment": comment})
    typer.echo(f"{'Approved' if yes else 'Not approved'}: flow run {run_id} continues.")


def _answer(run_id: UUID, answer: dict[str, str | bool]) -> None:
    from prefect.exceptions import ObjectNotFound
    from prefect.flow_runs import resume_flow_run
    from prefect.settings import PREFECT_API_URL

    from dae.config.schema import ConfigError

    address = PREFECT_API_URL.value()
    if not address:
        raise ConfigError("PREFECT_API_URL must name the server on which the flow run waits; it is not set")
    try:
        resume_flow_run(run_id, run_input=answer)
    except ObjectNotFound as error:
        raise ConfigError(f"no flow run {run_id} at {address}") from error
