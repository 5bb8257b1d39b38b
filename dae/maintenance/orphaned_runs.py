"""Orphans: runs that MLflow has as running though nothing works on them any more, and closing them with the reason."""

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
    """A run that MLflow has as running. `alive`: whether its process is; None where that cannot be seen from here."""

    run_id: str
    name: str
    flow_run_id: str | None
    alive: bool | None


def find_running() -> list[RunningRun]:
    """Return the pipeline's runs that MLflow has as running."""
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
    """End a run as stopped, and say in its tags why; tell whether it was still as it was found.

    What it logged stays, and so does its checkpoint: it can be resumed.
    """
    client = connect()
    try:
        now = client.get_run(run.run_id)
        if now.info.status != "RUNNING" or now.data.tags.get(FLOW_RUN) != run.flow_run_id:
            return False  # it ended by itself, or somebody resumed it
        client.set_tag(run.run_id, END_TAGS[1], reason)
        client.set_terminated(run.run_id, "KILLED")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
