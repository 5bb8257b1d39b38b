"""What a run that was made before says of itself: its configuration, its images, its commit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from mlflow.exceptions import MlflowException

from dae.config import loading
from dae.config.schema import PipelineConfig
from dae.promotion.schemas import PipelineResult
from dae.schemas import ImageSets, NoisySets
from dae.tracking.client import FLOW_RUN, TrackingError, connect, get_run, log_text, store_uri, unfinished

RUN_ID_LENGTH = 32
RESULT = "result.json"
"""What a training run ended with, as `dae.promotion.schemas.PipelineResult`."""


def resumable(run_id: str) -> PipelineConfig:
    """Return the configuration under which an unfinished run goes on, given its id or the beginning of it.

    Raises
    ------
    TrackingError
        If there is no such run or more than one, it has finished, or it holds no configuration.
    """
    client = connect()
    if len(run_id) < RUN_ID_LENGTH:
        runs = client.search_runs([each.experiment_id for each in client.search_experiments()], max_results=10_000)
        matching = [run.info.run_id for run in runs if run.info.run_id.startswith(run_id)]
        if len(matching) != 1:
            raise TrackingError(f"{len(matching) or 'no'} runs at {store_uri()} have an id that begins with {run_id}")
        run_id = matching[0]
    unfinished(client, run_id)
    config = config_of(run_id)
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"resume": run_id})})


def config_of(run_id: str) -> PipelineConfig:
    """Return the configuration a run was started with.

    Raises
    ------
    TrackingError
        If there is no such run, or it holds no configuration.
    """
    client = connect()
    get_run(client, run_id)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return loading.load_recorded(Path(client.download_artifacts(run_id, "config.yaml", folder)))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"run {run_id} holds no config.yaml: {error}") from error


def flow_run_of(run_id: str) -> str | None:
    """Return the id of the last flow run that worked on a run."""
    flow_run_id: str | None = get_run(connect(), run_id).data.tags.get(FLOW_RUN)
    return flow_run_id


def of_flow_run(flow_run_id: str) -> str | None:
    """Return the id of the run that a flow run worked on; None if it made none."""
    client = connect()
    experiments = [each.experiment_id for each in client.search_experiments()]
    wanted = f"tags.`{FLOW_RUN}` = '{flow_run_id}' and tags.config_digest != ''"  # a check for staleness has none
    found = client.search_runs(experiments, wanted) if experiments else []
    return str(found[0].info.run_id) if found else None


def log_result(result: PipelineResult) -> None:
    """Log what a training run ends with. A score of no images is NaN, which pydantic's own JSON would make null."""
    log_text(result.run_id, json.dumps(result.model_dump(mode="json"), indent=2), RESULT)


def result_of(run_id: str) -> PipelineResult:
    """Return what a training run ended with.

    Raises
    ------
    TrackingError
        If it has not come to its end, or there is no such run.
    """
    client = connect()
    get_run(client, run_id)
    try:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(client.download_artifacts(run_id, RESULT, folder)).read_text(encoding="utf-8")
    except (MlflowException, OSError) as error:
        raise TrackingError(f"run {run_id} holds no {RESULT}: {error}") from error
    return PipelineResult.model_validate_json(text)


def image_shape(run_id: str) -> tuple[int, int, int] | None:
    """Return the shape ``(H, W, C)`` of the images of a run; None if it had none yet."""
    inputs = get_run(connect(), run_id).inputs.dataset_inputs
    height, width, channels = json.loads(inputs[0].dataset.profile)["shape"] if inputs else (0, 0, 0)
    return (height, width, channels) if inputs else None


def require_same_images(run_id: str, images: ImageSets, noisy: NoisySets) -> None:
    """Refuse images, or noise on them, other than those a run worked on.

    Raises
    ------
    TrackingError
        Naming both digests.
    """
    tags = get_run(connect(), run_id).data.tags
    found = {"data_digest": images.digest} | {
        f"noise_digest.{name}": getattr(noisy, name).sha256 for name in ("validation", "test")
    }
    for key, digest in found.items():
        if tags.get(key) not in (None, digest):
            what = "images" if key == "data_digest" else "noise"
            raise TrackingError(f"run {run_id} had {what} of {key} {tags[key]}; {images.source} now gives {digest}")


def git_commit(run_id: str) -> str:
    """Return the commit a run was made at, ``unknown`` where it has none."""
    return str(get_run(connect(), run_id).data.tags.get("git_commit", "unknown"))
