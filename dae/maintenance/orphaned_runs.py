"""Orphaned runs: runs with the status RUNNING in MLflow whose process has ended. They are closed with the reason."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from dae.schemas import FrozenModel
from dae.tracking import provenance
from dae.tracking.client import FLOW_RUN, PROCESS, connect, experiment_ids, iterate_pages
from dae.tracking.runs import END_TAGS


class RunningRun(FrozenModel):
    """A run with the status RUNNING. `alive` tells whether its process is running; None if this machine cannot tell."""

    run_id: str
    name: str
    flow_run_id: str | None
    alive: bool | None


def find_running() -> list[RunningRun]:
    """Return the runs of this pipeline with the status RUNNING in MLflow."""
    client = connect()
    return [_running(run) for run in _search(client)]


def _search(client: MlflowClient) -> Iterator[Run]:
    if experiments := experiment_ids(client):
        runs = iterate_pages(client.search_runs, experiments, "attributes.status = 'RUNNING'")
        yield from (run for run in runs if FLOW_RUN in run.data.tags)


def _running(run: Run) -> RunningRun:
    tags = run.data.tags
    return RunningRun(
        run_id=run.info.run_id,
        name=str(run.info.run_name),
        flow_run_id=tags.get(FLOW_RUN),
        alive=provenance.is_running(tags.get(PROCESS, "")),
    )


def close_run(run: RunningRun, reason: str) -> bool:
    """End a run with the status KILLED and the reason in its tags. Tell whether it was still running and unchanged.

    Its logged data and its checkpoint are kept, so it can be resumed.
    """
    client = connect()
    try:
        # Read again: since it was listed, the run may have ended, or somebody may have resumed it.
        current = client.get_run(run.run_id)
        if current.info.status != "RUNNING" or current.data.tags.get(FLOW_RUN) != run.flow_run_id:
            return False
        client.set_tag(run.run_id, END_TAGS[1], reason)
        client.set_terminated(run.run_id, "KILLED")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
