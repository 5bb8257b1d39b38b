"""Limits and final states of flow runs: the timeout, runs that a newer run supersedes, and the state after a refusal."""

from __future__ import annotations

import logging
import math
import os
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed

from dae.config.schema import ConfigError
from dae.promotion import reports
from dae.promotion.schemas import PipelineResult, PromotionResult

HOURS = "DAE_TIMEOUT_HOURS"
SUPERSEDED = "Superseded"
Result = TypeVar("Result", PipelineResult, PromotionResult)
REFUSED = "Refused"
"""Name of the state after a refusal. Its type is completed, since nothing failed. Automations wait for this name."""
logger = logging.getLogger("dae.limits")


def timeout_seconds() -> float | None:
    """Return the time limit of a flow run from ``$DAE_TIMEOUT_HOURS``, which a deployment sets for its runs; None: no limit.

    Raises
    ------
    ValueError
        If it is not a number above 0.
    """
    text = os.environ.get(HOURS, "").strip()
    if not text:
        return None
    try:
        hours = float(text)
    except ValueError:
        hours = 0
    if not 0 < hours < math.inf:
        raise ValueError(f"{HOURS} must be a number of hours above 0, received {text}")
    return hours * 3600


def require_approval_time(approval_hours: float | None) -> None:
    """Refuse an approval time that a run cannot wait: in a deployment, or beyond the time limit of the run.

    Raises
    ------
    ConfigError
        Naming the rule.
    """
    if approval_hours is not None and deployment.id is not None:
        raise ConfigError(
            "gate.approval_hours is for dae train and dae promote: a deployment's run loses its place under the limit while it "
            f"is paused, and ends. Run it with gate.dry_run, then promote the version; received {approval_hours:g} hours"
        )
    seconds = timeout_seconds()
    if approval_hours is not None and seconds is not None and approval_hours * 3600 >= seconds:
        raise ConfigError(
            f"gate.approval_hours must be below {HOURS}, the {seconds / 3600:g} hours this run may take in all, "
            f"received {approval_hours:g}"
        )


def find_superseding_state() -> State[None] | None:
    """Return the state in which a run must end because a newer run of its schedule is due; None if it must continue.

    After a downtime, all runs that became due meanwhile are started, the oldest first. Runs that a person started are never
    superseded, and do not supersede others.
    """
    if deployment.id is None:
        return None
    with get_client(sync_client=True) as client:
        current = client.read_flow_run(UUID(str(flow_run.id)))
        if not current.auto_scheduled or current.expected_start_time is None:
            return None
        after = current.expected_start_time + timedelta(milliseconds=1)  # the filter includes its bounds
        newer = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[UUID(str(deployment.id))]),
                expected_start_time=FlowRunFilterExpectedStartTime(after_=after, before_=datetime.now(UTC)),
                state=FlowRunFilterState(
                    type=FlowRunFilterStateType(
                        not_any_=[StateType.CANCELLED, StateType.CANCELLING, StateType.FAILED, StateType.CRASHED]
                    )
                ),
            )
        )
    due = [run for run in newer if run.auto_scheduled]
    if not due:
        return None
    message = f"a newer run of this schedule is due as well: {', '.join(run.name for run in due)}"
    logger.info("limits: skipped, since %s", message)
    return Cancelled(name=SUPERSEDED, message=message)


def final_state(result: Result) -> Result:
    """Return what a flow must return for its run to end as completed, under the name `REFUSED` if the gate refused.

    Code that calls the flow receives the result in both cases.
    """
    if result.version.decision.event != "refused":
        return result
    headline = reports.headline(result.version).removeprefix(f"{REFUSED}: ")
    message = " ".join([headline, *result.version.verdict.reasons])
    state: Any = Completed(name=REFUSED, message=message, data=result)
    return state  # type: ignore[no-any-return]  # Prefect unpacks the result from the state
