"""The sweeper: what a killed process left as running is closed, in MLflow and in Prefect, and the reason is kept."""

from __future__ import annotations

import logging
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from dae.maintenance import orphaned_runs
from dae.maintenance.orphaned_runs import RunningRun
from dae.schemas import FrozenModel
from flows import run_control

logger = logging.getLogger("dae.sweep")


class ClosedRuns(FrozenModel):
    """The ids of the runs that were closed, with the reasons, and of those that go on."""

    closed: dict[str, str]
    left: tuple[str, ...]


@flow(name="sweep", flow_run_name="sweep", validate_parameters=True, timeout_seconds=run_control.timeout_seconds())
def close_orphaned_runs(dry_run: bool = False) -> ClosedRuns:
    """Close the runs whose flow run has ended, or whose process is gone from this machine; all others are left alone."""
    closed: dict[str, str] = {}
    left: list[str] = []
    with get_client(sync_client=True) as client:
        for run in orphaned_runs.find_running():
            state = _state(client, run)
            reason = _reason(run, state)
            if reason is not None and not dry_run:
                _crash(client, run, state, reason)  # first: once it is closed in MLflow, nobody looks at it again
            if reason is None or not (dry_run or orphaned_runs.close_run(run, reason)):
                left.append(run.run_id)
                continue
            closed[run.run_id] = reason
            logger.info("sweep: %s %s (%s): %s", "would close" if dry_run else "closed", run.run_id, run.name, reason)
    logger.info("sweep: %d %s, %d running", len(closed), "to close" if dry_run else "closed", len(left))
    return ClosedRuns(closed=closed, left=tuple(left))


def _crash(client: SyncPrefectClient, run: RunningRun, state: State | None, reason: str) -> None:
    if run.flow_run_id and state is not None and not state.is_final():
        client.set_flow_run_state(UUID(run.flow_run_id), Crashed(message=f"Swept: {reason}."), force=True)


def _state(client: SyncPrefectClient, run: RunningRun) -> State | None:
    """Return the state of a run's flow run; None if this server does not know it, as it does not that of a local run."""
    try:
        return client.read_flow_run(UUID(run.flow_run_id)).state
    except (ObjectNotFound, ValueError):
        return None


def _reason(run: RunningRun, state: State | None) -> str | None:
    """Return why nothing works on a run; None if something may."""
    if run.alive is False:
        return "its process is gone from this machine"
    if run.alive or state is None or not state.is_final():
        return None
    said = f": {state.message}" if state.message else ""
    return f"its flow run {run.flow_run_id} ended as {state.name}{said}"
