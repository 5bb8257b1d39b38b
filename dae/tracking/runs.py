"""Runs of MLflow: opening and resuming a run, finding runs, and reading what they recorded."""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dae import command_lines
from dae.config import loading
from dae.config.schema import ConfigError, PipelineConfig
from dae.schemas import FrozenModel, ImageSets, NoisySets
from dae.tracking import models, provenance
from dae.tracking.client import (
    FLOW_RUN,
    PROCESS,
    RUN_ID_LENGTH,
    TrackingError,
    connect,
    experiment_id,
    experiment_ids,
    get_run,
    iterate_pages,
    store_uri,
)
from dae.tracking.run_logging import log_params, set_tags

END_TAGS = ("error", "closed_because")
"""Tags of a run that failed, and of an orphaned run that was closed."""
NEEDED_UNTIL = "dae.needed_until"
DIGESTS = ("data_digest", "noise_digest.validation", "noise_digest.test")
RUN_ID = re.compile(r"[0-9a-f]{1,32}")
logger = logging.getLogger(__name__)


class RecordedRun(FrozenModel):
    """What a run recorded. `tree` is its configuration as plain values, in the form of its commit."""

    run_id: str
    status: str
    tree: dict[str, Any]
    commit: str
    dirty: bool
    digests: dict[str, str]
    pixels: dict[str, str]
    scores: dict[str, float]
    packages: dict[str, str]
    machine: dict[str, Any]


@contextmanager
def open_run(config: PipelineConfig, flow_run_id: str) -> Iterator[str]:
    """Open the MLflow run of a flow run, new or resumed, and yield its id. Its final state shows how the block ended.

    Raises
    ------
    TrackingError
        If the run to resume does not exist, has finished, or had another configuration.
    """
    client = connect()
    tags = {FLOW_RUN: flow_run_id, PROCESS: provenance.describe_process()}
    run_id = _resume(client, config, tags) if config.tracking.resume else _start(client, config, tags)
    logger.info("run: %s", run_id)
    try:
        if not config.tracking.resume:
            _log_configuration(run_id, config)
        yield run_id
    except Exception as error:
        logger.info("run: failed; to resume it: %s", command_lines.dae_command(f"train --resume {run_id}"))
        client.set_tag(run_id, "error", f"{type(error).__name__}: {error}"[:5000])
        client.set_terminated(run_id, "FAILED")
        raise
    except BaseException:  # cancelled, terminated or interrupted
        logger.info("run: stopped; to resume it: %s", command_lines.dae_command(f"train --resume {run_id}"))
        client.set_terminated(run_id, "KILLED")
        raise
    client.set_terminated(run_id, "FINISHED")


def _start(client: MlflowClient, config: PipelineConfig, tags: dict[str, str]) -> str:
    """Create a run. Its tags name its process from the start, so that it is not mistaken for an orphaned run."""
    tags = (
        tags
        | {"config_digest": config.digest, "mlflow.source.name": "dae train", "mlflow.source.type": "LOCAL"}
        | provenance.read_git_tags()
    )
    tags["mlflow.source.git.commit"] = tags["git_commit"]
    tags |= {f"source_sha256.{name}": digest for name, digest in config.user_sources().items()}
    created = client.create_run(experiment_id(client, config.tracking.experiment), tags=tags, run_name=config.run_name)
    return str(created.info.run_id)


def _log_configuration(run_id: str, config: PipelineConfig) -> None:
    client = MlflowClient()
    log_params(run_id, {key: str(value) for key, value in config.flat().items()})
    client.log_text(run_id, loading.dump(config), "config.yaml")
    client.log_text(run_id, provenance.list_requirements(), "environment/requirements.txt")
    client.log_dict(run_id, provenance.describe_machine(), "environment/machine.json")


def _resume(client: MlflowClient, config: PipelineConfig, tags: dict[str, str]) -> str:
    run_id = str(config.tracking.resume)
    run = get_unfinished_run(client, run_id)
    if run.data.tags.get("config_digest") != config.digest:
        raise TrackingError(f"tracking.resume: run {run_id} had another configuration; resume it under its own")
    set_tags(run_id, tags)  # before its status changes, or the running process would look like the former one
    client.update_run(run_id, status="RUNNING")
    for tag in END_TAGS:
        if tag in run.data.tags:
            client.delete_tag(run_id, tag)
    return run_id


def get_unfinished_run(client: MlflowClient, run_id: str) -> Any:
    """Return a run that has not finished and that no visible process works on.

    Raises
    ------
    TrackingError
        If there is no such run, it has finished, or its process is running.
    """
    run = get_run(client, run_id)
    if run.info.status == "FINISHED":
        raise TrackingError(f"only an unfinished run is resumed; run {run_id} is FINISHED")
    if run.info.status == "RUNNING" and provenance.is_running(run.data.tags.get(PROCESS, "")):
        raise TrackingError(f"only a run that has stopped is resumed; run {run_id} is RUNNING, and its process lives")
    return run


def find_run(reference: str) -> str:
    """Return the id of a run.

    Parameters
    ----------
    reference : str
        Its id, the beginning of its id, or ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` of a model it logged.

    Raises
    ------
    TrackingError
        If there is no such run, or more than one.
    ModelError
        If there is no such model.
    """
    if reference.startswith("models:/"):
        return models.locate_model(reference).run_id
    client = connect()
    if len(reference) >= RUN_ID_LENGTH:
        return str(get_run(client, reference).info.run_id)
    if not RUN_ID.fullmatch(reference):
        raise TrackingError(
            f"a run is named by its id, the beginning of it, or models:/NAME/VERSION, received {reference}"
        )
    runs = iterate_pages(client.search_runs, experiment_ids(client), max_results=1000)
    matching = [run.info.run_id for run in runs if run.info.run_id.startswith(reference)]
    if len(matching) != 1:
        where = f"at {store_uri()} have an id that begins with {reference}"
        raise TrackingError(f"{len(matching) or 'no'} runs {where}")
    return str(matching[0])


def find_run_of_flow_run(flow_run_id: str) -> str | None:
    """Return the id of the run of a flow run; None if it created none."""
    client = connect()
    condition = f"tags.`{FLOW_RUN}` = '{flow_run_id}' and tags.config_digest != ''"  # a check for drift has no digest
    experiments = experiment_ids(client)
    runs = client.search_runs(experiments, condition) if experiments else []
    return str(runs[0].info.run_id) if runs else None


def flow_run_of(run_id: str) -> str | None:
    """Return the id of the last flow run that worked on a run."""
    flow_run_id: str | None = get_run(connect(), run_id).data.tags.get(FLOW_RUN)
    return flow_run_id


def read_run(run_id: str) -> RecordedRun:
    """Return what a run recorded.

    Raises
    ------
    TrackingError
        If there is no such run, or it has no configuration.
    """
    run = get_run(connect(), run_id)
    tags = run.data.tags
    if (text := read_text_artifact(run_id, "config.yaml")) is None:
        raise TrackingError(f"run {run_id} holds no config.yaml, so it cannot be made again")
    inputs = run.inputs.dataset_inputs if run.inputs else []
    input_tags = [{tag.key: tag.value for tag in dataset.tags} for dataset in inputs]
    return RecordedRun(
        run_id=run_id,
        status=run.info.status,
        tree=yaml.safe_load(text),
        commit=tags.get("git_commit", "unknown"),
        dirty=tags.get("git_dirty") == "true",
        digests={key: tags[key] for key in DIGESTS if key in tags},
        pixels={split["mlflow.data.context"]: split["clean_sha256"] for split in input_tags if "clean_sha256" in split},
        scores=model_errors(run.data.metrics),
        packages=parse_requirements(read_text_artifact(run_id, "environment/requirements.txt") or ""),
        machine=json.loads(read_text_artifact(run_id, "environment/machine.json") or "{}"),
    )


def read_config(run_id: str) -> PipelineConfig:
    """Return the configuration a run was started with.

    Raises
    ------
    TrackingError
        If there is no such run, or it has no configuration.
    """
    client = connect()
    get_run(client, run_id)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return loading.load_recorded(Path(client.download_artifacts(run_id, "config.yaml", folder)))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"run {run_id} holds no config.yaml: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"run {run_id}: its configuration cannot be read here: {error}") from error


def read_resumable_config(reference: str) -> PipelineConfig:
    """Return the configuration under which an unfinished run is resumed.

    Parameters
    ----------
    reference : str
        The run's id, or the beginning of its id.

    Raises
    ------
    TrackingError
        If there is no such run or more than one, it has finished, or it has no configuration.
    """
    run_id = find_run(reference)
    get_unfinished_run(connect(), run_id)
    config = read_config(run_id)
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"resume": run_id})})


def read_text_artifact(run_id: str, path: str) -> str | None:
    """Return a text file of a run; None if there is no file with this name."""
    client = connect()
    folder = path.rpartition("/")[0]
    if path not in {artifact.path for artifact in client.list_artifacts(run_id, folder or None)}:
        return None
    with tempfile.TemporaryDirectory() as target:
        return Path(client.download_artifacts(run_id, path, target)).read_text(encoding="utf-8")


def read_image_shape(run_id: str) -> tuple[int, int, int] | None:
    """Return the shape ``(H, W, C)`` of the images of a run; None if it has logged none yet."""
    inputs = get_run(connect(), run_id).inputs.dataset_inputs
    height, width, channels = json.loads(inputs[0].dataset.profile)["shape"] if inputs else (0, 0, 0)
    return (height, width, channels) if inputs else None


def read_git_commit(run_id: str) -> str:
    """Return the commit of the code of a run, ``unknown`` if it recorded none."""
    return str(get_run(connect(), run_id).data.tags.get("git_commit", "unknown"))


def require_same_images(run_id: str, images: ImageSets, noisy: NoisySets) -> None:
    """Refuse images or noise that differ from those of a run.

    Raises
    ------
    TrackingError
        If a digest differs; the message has both.
    """
    tags = get_run(connect(), run_id).data.tags
    digests = {"data_digest": images.digest} | {
        f"noise_digest.{name}": getattr(noisy, name).sha256 for name in ("validation", "test")
    }
    for key, digest in digests.items():
        if tags.get(key) not in (None, digest):
            kind = "images" if key == "data_digest" else "noise"
            raise TrackingError(f"run {run_id} had {kind} of {key} {tags[key]}; {images.source} now gives {digest}")


def protect_run(run_id: str, hours: float) -> None:
    """Set a tag on a run so that ``dae gc`` keeps it for some hours.

    Nothing happens if the run does not exist, or if the user may only read.
    """
    client = connect()
    until = time.time() + hours * 3600
    try:
        run = client.get_run(run_id)
        if run.info.lifecycle_stage == "active" and until > read_needed_until(run.data.tags):
            client.set_tag(run_id, NEEDED_UNTIL, f"{until:.0f}")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
            raise


def read_needed_until(tags: Mapping[str, str]) -> float:
    """Return until when a run is protected, in seconds since the epoch; 0 if it is not."""
    try:
        return float(tags.get(NEEDED_UNTIL) or 0)
    except ValueError:
        return 0.0


def model_errors(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a run that are mean squared errors of its model: pooled and by kind, on both splits."""
    pooled = {name: value for name, value in metrics.items() if name in ("best_val_mse", "test_mse")}
    by_kind = {name: value for name, value in metrics.items() if name.startswith(("val_mse_", "test_mse_"))}
    return pooled | {name: value for name, value in by_kind.items() if not name.endswith("_nothing")}


def parse_requirements(text: str) -> dict[str, str]:
    """Return the versions of packages, by lower-case name, from lines of the form ``name==version``.

    Examples
    --------
    >>> parse_requirements("NumPy==2.1.0")
    {'numpy': '2.1.0'}
    """
    pins = dict(line.split("==", 1) for line in text.splitlines() if "==" in line)
    return {name.lower(): version.strip() for name, version in pins.items()}
