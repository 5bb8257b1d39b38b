"""How a flow run is limited and how it ends: its timeout, runs that a newer one supersedes, and the final state."""

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
"""The name of the state; its type is completed, since nothing went wrong. Automations wait for it by this name."""
logger = logging.getLogger("dae.limits")


def timeout_seconds() -> float | None:
    """Return how long a flow run may take: ``$DAE_TIMEOUT_HOURS``, which a deployment sets for its runs; None: for ever.

    Raises
    ------
    ValueError
        If it is not a number above 0.
    """
    said = os.environ.get(HOURS, "").strip()
    if not said:
        return None
    try:
        hours = float(said)
    except ValueError:
        hours = 0
    if not 0 < hours < math.inf:
        raise ValueError(f"{HOURS} must be a number of hours above 0, received {said}")
    return hours * 3600


def require_approval_time(approval_hours: float | None) -> None:
    """Refuse to wait for a person where a run cannot: in a deployment, or longer than the run may take in all.

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
    """Return the state a run is to end in because a newer run of its schedule is due as well; None if it is to go on.

    After a downtime all the runs that were due meanwhile are started, the oldest first. Runs that somebody asked for are never
    superseded, and supersede none.
    """
    if deployment.id is None:
        return None
    with get_client(sync_client=True) as client:
        this = client.read_flow_run(UUID(str(flow_run.id)))
        if not this.auto_scheduled or this.expected_start_time is None:
            return None
        after = this.expected_start_time + timedelta(milliseconds=1)  # the filter takes in its bounds
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
    due = [each for each in newer if each.auto_scheduled]
    if not due:
        return None
    message = f"a newer run of this schedule is due as well: {', '.join(each.name for each in due)}"
    logger.info("limits: not run, since %s", message)
    return Cancelled(name=SUPERSEDED, message=message)


def final_state(result: Result) -> Result:
    """Return what a flow returns, so that its run ends as completed, under the name `REFUSED` if the gate refused.

    Called from other code the flow returns the result either way.
    """
    if result.version.decision.event != "refused":
        return result
    said = reports.headline(result.version).removeprefix(f"{REFUSED}: ")
    message = " ".join([said, *result.version.verdict.reasons])
    state: Any = Completed(name=REFUSED, message=message, data=result)
    return state  # type: ignore[no-any-return]  # Prefect takes the state apart
