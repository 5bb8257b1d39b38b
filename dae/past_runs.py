"""What a run that was made before says of itself: its configuration, its images, its commit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from mlflow.exceptions import MlflowException

from dae import config_files, tracking
from dae.config import PipelineConfig
from dae.tracking import TrackingError

RUN_ID_LENGTH = 32


def resumable(run_id: str) -> PipelineConfig:
    """Return the configuration under which an unfinished run goes on, given its id or the beginning of it.

    Raises
    ------
    TrackingError
        If there is no such run or more than one, it has finished, or it holds no configuration.
    """
    client = tracking.connect()
    if len(run_id) < RUN_ID_LENGTH:
        runs = client.search_runs([each.experiment_id for each in client.search_experiments()], max_results=10_000)
        matching = [run.info.run_id for run in runs if run.info.run_id.startswith(run_id)]
        if len(matching) != 1:
            raise TrackingError(
                f"{len(matching) or 'no'} runs at {tracking.store_uri()} have an id that begins with {run_id}"
            )
        run_id = matching[0]
    tracking.unfinished(client, run_id)
    config = config_of(run_id)
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"resume": run_id})})


def config_of(run_id: str) -> PipelineConfig:
    """Return the configuration a run was started with.

    Raises
    ------
    TrackingError
        If there is no such run, or it holds no configuration.
    """
    client = tracking.connect()
    tracking.get_run(client, run_id)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return config_files.load(Path(client.download_artifacts(run_id, "config.yaml", folder)))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"run {run_id} holds no config.yaml: {error}") from error


def flow_run_of(run_id: str) -> str | None:
    """Return the id of the last flow run that worked on a run."""
    flow_run_id: str | None = tracking.get_run(tracking.connect(), run_id).data.tags.get(tracking.FLOW_RUN)
    return flow_run_id


def image_shape(run_id: str) -> tuple[int, int, int] | None:
    """Return the shape ``(H, W, C)`` of the images of a run; None if it had none yet."""
    inputs = tracking.get_run(tracking.connect(), run_id).inputs.dataset_inputs
    height, width, channels = json.loads(inputs[0].dataset.profile)["shape"] if inputs else (0, 0, 0)
    return (height, width, channels) if inputs else None


def git_commit(run_id: str) -> str:
    """Return the commit a run was made at, ``unknown`` where it has none."""
    return str(tracking.get_run(tracking.connect(), run_id).data.tags.get("git_commit", "unknown"))
