"""Closes orphaned runs: runs of killed processes that MLflow and Prefect still show as running. The reason is recorded."""

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
    """The ids of the runs that were closed, with the reasons, and of the runs that are left running."""

    closed: dict[str, str]
    left: tuple[str, ...]


@flow(name="sweep", flow_run_name="sweep", validate_parameters=True, timeout_seconds=run_control.timeout_seconds())
def close_orphaned_runs(dry_run: bool = False) -> ClosedRuns:
    """Close the runs whose flow run has ended, or whose process no longer exists on this machine. Others are not touched."""
    closed: dict[str, str] = {}
    running: list[str] = []
    with get_client(sync_client=True) as client:
        for run in orphaned_runs.find_running():
            state = _state(client, run)
            reason = _reason(run, state)
            if reason is not None and not dry_run:
                _crash(client, run, state, reason)  # first: a run that is closed in MLflow is not found again
            if reason is None or not (dry_run or orphaned_runs.close_run(run, reason)):
                running.append(run.run_id)
                continue
            closed[run.run_id] = reason
            logger.info("sweep: %s %s (%s): %s", "would close" if dry_run else "closed", run.run_id, run.name, reason)
    logger.info("sweep: %d %s, %d running", len(closed), "to close" if dry_run else "closed", len(running))
    return ClosedRuns(closed=closed, left=tuple(running))


def _crash(client: SyncPrefectClient, run: RunningRun, state: State | None, reason: str) -> None:
    if run.flow_run_id and state is not None and not state.is_final():
        client.set_flow_run_state(UUID(run.flow_run_id), Crashed(message=f"Swept: {reason}."), force=True)


def _state(client: SyncPrefectClient, run: RunningRun) -> State | None:
    """Return the state of a run's flow run; None if this server does not know it, such as that of a local run."""
    try:
        return client.read_flow_run(UUID(run.flow_run_id)).state
    except (ObjectNotFound, ValueError):
        return None


def _reason(run: RunningRun, state: State | None) -> str | None:
    """Return why a run is orphaned; None if a process may still work on it."""
    if run.alive is False:
        return "its process is gone from this machine"
    if run.alive or state is None or not state.is_final():
        return None
    message = f": {state.message}" if state.message else ""
    return f"its flow run {run.flow_run_id} ended as {state.name}{message}"
