"""The record of a run in MLflow. Every call names its run: no fluent, thread-bound active run is ever opened."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import ExclusiveFileLock

from dae import config_files, provenance, store
from dae.config import PipelineConfig
from dae.records import ImageSet, ImageSets, NoisySet, NoisySets, Scores, SplitScores

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FLOW_RUN = "prefect.flow_run_id"
logger = logging.getLogger(__name__)


class TrackingError(RuntimeError):
    """The record of a run cannot be read or written as asked."""


def store_uri() -> str:
    """Return the tracking URI: ``$MLFLOW_TRACKING_URI``, or the SQLite file in ``mlruns/``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.home() / 'mlruns' / 'mlflow.db'}"


def connect() -> MlflowClient:
    """Point MLflow at the store in use, making a local one if it is not there, and return a client."""
    uri = store_uri()
    mlflow.set_tracking_uri(uri)
    _initialise(uri)
    return MlflowClient()


@functools.cache
def _initialise(uri: str) -> None:
    """Quieten MLflow, and make a local store once a process: two that migrate a new SQLite file at once leave it unusable."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith(("http://", "https://")):
        _require_listener(uri)
    if folder := _local_folder(uri):
        folder.mkdir(parents=True, exist_ok=True)
        with ExclusiveFileLock(str(folder / ".init.lock")):
            MlflowClient().search_experiments(max_results=1)


def _require_listener(uri: str) -> None:
    """Fail at once where no server listens: MLflow's own client would try for minutes."""
    address = urlsplit(uri)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise TrackingError(f"MLFLOW_TRACKING_URI: no server answers at {uri}: {error}") from error


def _local_folder(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).resolve().parent if uri.startswith("sqlite:///") else None


def experiment_id(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment, made if missing; with a local store its artifacts lie beside the database."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    folder = _local_folder(store_uri())
    location = (folder / "artifacts" / name).as_uri() if folder else None
    return str(client.create_experiment(name, artifact_location=location))


@contextmanager
def run(config: PipelineConfig, flow_run_id: str) -> Iterator[str]:
    """Open the MLflow run of a flow run, new or resumed, and yield its id; its final state tells how the block ended.

    Raises
    ------
    TrackingError
        If the run to resume does not exist, has finished, or had another configuration.
    """
    client = connect()
    run_id = _resumed(client, config) if config.tracking.resume else _started(client, config)
    client.set_tag(run_id, FLOW_RUN, flow_run_id)
    logger.info("run: %s", run_id)
    try:
        yield run_id
    except Exception as error:
        logger.info("run: failed; once mended, go on with: dae train --resume %s", run_id)
        client.set_tag(run_id, "error", f"{type(error).__name__}: {error}"[:5000])
        client.set_terminated(run_id, "FAILED")
        raise
    except BaseException:  # cancelled, terminated or interrupted
        logger.info("run: stopped; go on with: dae train --resume %s", run_id)
        client.set_terminated(run_id, "KILLED")
        raise
    client.set_terminated(run_id, "FINISHED")


def _started(client: MlflowClient, config: PipelineConfig) -> str:
    tags = {
        "config_digest": config.digest,
        "mlflow.source.name": "dae train",
        "mlflow.source.type": "LOCAL",
    } | provenance.git_tags()
    tags["mlflow.source.git.commit"] = tags["git_commit"]
    created = client.create_run(experiment_id(client, config.tracking.experiment), tags=tags, run_name=config.run_name)
    run_id = str(created.info.run_id)
    log_params(run_id, {key: str(value) for key, value in config.flat().items()})
    client.log_text(run_id, config_files.dump(config), "config.yaml")
    client.log_text(run_id, provenance.requirements(), "environment/requirements.txt")
    client.log_dict(run_id, provenance.machine(), "environment/machine.json")
    return run_id


def _resumed(client: MlflowClient, config: PipelineConfig) -> str:
    run_id = str(config.tracking.resume)
    found = unfinished(client, run_id)
    if found.data.tags.get("config_digest") != config.digest:
        raise TrackingError(f"tracking.resume: run {run_id} had another configuration; resume it under its own")
    client.update_run(run_id, status="RUNNING")
    if "error" in found.data.tags:
        client.delete_tag(run_id, "error")
    return run_id


def get_run(client: MlflowClient, run_id: str) -> Any:
    """Return a run.

    Raises
    ------
    TrackingError
        If there is none of this id.
    """
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise TrackingError(f"no run {run_id} at {store_uri()}: {error.message}") from error


def unfinished(client: MlflowClient, run_id: str) -> Any:
    """Return a run that has not finished.

    Raises
    ------
    TrackingError
        If there is none of this id, or it has.
    """
    found = get_run(client, run_id)
    if found.info.status == "FINISHED":
        raise TrackingError(f"only an unfinished run is resumed; run {run_id} is FINISHED")
    return found


def log_inputs(run_id: str, images: ImageSets, noisy: NoisySets) -> None:
    """Log the image sets as inputs of a run. MLflow keeps 36 characters of a digest: the first 32, and all 64 as a tag.

    Raises
    ------
    TrackingError
        If a run that goes on had other images before.
    """
    inputs = [_input(images.source, "train", images.train, noisy.train)]
    inputs += [
        _input(images.source, name, getattr(noisy, name).clean, getattr(noisy, name)) for name in ("validation", "test")
    ]
    client = connect()
    known = client.get_run(run_id).data.tags.get("data_digest")
    if known not in (None, images.digest):
        raise TrackingError(
            f"run {run_id} had images of digest {known}; those now in {images.source} have {images.digest}"
        )
    if known is None:
        client.log_inputs(run_id, inputs)
    client.set_tag(run_id, "data_digest", images.digest)
    for name in ("validation", "test"):
        client.set_tag(run_id, f"noise_digest.{name}", getattr(noisy, name).sha256)


def _input(source: str, context: str, clean: ImageSet, noisy: NoisySet | None) -> DatasetInput:
    digest = noisy.sha256 if noisy else clean.sha256
    tags = {
        "mlflow.data.context": context,
        "clean_sha256": clean.sha256,
        "noise": noisy.sha256 if noisy else "fresh every epoch",
    }
    dataset = Dataset(
        name=f"{source}-{context}",
        digest=digest[:32],
        source_type="local",
        source=json.dumps({"uri": Path(clean.path).as_uri()}),
        schema=json.dumps({"mlflow_tensorspec": {"features": _tensor(clean), "targets": _tensor(clean)}}),
        profile=json.dumps({"num_images": clean.count, "shape": clean.shape, "sha256": digest}),
    )
    return DatasetInput(dataset=dataset, tags=[InputTag(key, value) for key, value in tags.items()])


def _tensor(images: ImageSet) -> str:
    shape = [-1, *images.shape]
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": shape}}])


def log_epoch(run_id: str, epoch: int, row: Mapping[str, float]) -> None:
    """Log the figures of an epoch, counted from 0 and logged at step epoch + 1, unless the run has that step already."""
    client = MlflowClient()
    if any(point.step == epoch + 1 for point in client.get_metric_history(run_id, "val_mse")):
        return
    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(key, float(value), now, epoch + 1) for key, value in row.items()])


def log_metrics(run_id: str, values: Mapping[str, float]) -> None:
    """Log figures of a run that have no epoch."""
    now = int(time.time() * 1000)
    MlflowClient().log_batch(run_id, metrics=[Metric(key, float(value), now, 0) for key, value in values.items()])


def log_params(run_id: str, values: Mapping[str, str]) -> None:
    """Log parameters of a run."""
    MlflowClient().log_batch(run_id, params=[Param(key, value) for key, value in values.items()])


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    MlflowClient().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def log_figure(run_id: str, figure: Figure, name: str) -> None:
    """Store a figure as ``figures/<name>.png``."""
    MlflowClient().log_figure(run_id, figure, f"figures/{name}.png", save_kwargs={"dpi": 120})


def log_text(run_id: str, text: str, name: str) -> None:
    """Store a text file under a name."""
    MlflowClient().log_text(run_id, text, name)


def log_scores(run_id: str, scores: Scores) -> None:
    """Log every score as a metric, those of kinds that did not occur left out, and all of them as ``scores.json``."""
    named = split_metrics("val", scores.validation) | split_metrics("test", scores.test)
    values = {name: value for name, value in named.items() if math.isfinite(value)}
    log_metrics(run_id, values | {"images_per_second": scores.images_per_second})
    MlflowClient().log_text(run_id, scores.model_dump_json(indent=2), "scores.json")


def split_metrics(prefix: str, scores: SplitScores) -> dict[str, float]:
    """Return a split's scores under the names the runs have them: ``test_mse``, ``val_mse_poisson_nothing`` and so on.

    The pooled validation MSE of the logged model is ``best_val_mse``: plain ``val_mse`` is the curve over the epochs.
    """
    groups = {"": scores.pooled, "_nothing": scores.pooled_nothing}
    groups |= {f"_{kind}": quality for kind, quality in scores.per_kind.items()}
    groups |= {f"_{kind}_nothing": quality for kind, quality in scores.per_kind_nothing.items()}
    named = {
        f"{prefix}_{measure}{suffix}": getattr(quality, measure)
        for suffix, quality in groups.items()
        for measure in ("mse", "psnr", "ssim")
    }
    if prefix == "val":
        named["best_val_mse"] = named.pop("val_mse")
    return named
