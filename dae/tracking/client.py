"""The record of a run in MLflow. Every call names its run: no fluent, thread-bound active run is ever opened."""

from __future__ import annotations

import functools
import logging
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
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import ExclusiveFileLock

from dae import command_lines, storage
from dae.config import loading
from dae.config.schema import PipelineConfig
from dae.tracking import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FLOW_RUN = "prefect.flow_run_id"
PROCESS = "dae.process"
ENDED_BECAUSE = ("error", "closed_because")
"""Tags of a run that failed, and of one that was found with nothing working on it."""
CHECKS = "dae.checks"
"""On an experiment whose runs train nothing, so that they are no rows of the table of runs."""
logger = logging.getLogger(__name__)


class TrackingError(RuntimeError):
    """The record of a run cannot be read or written as asked."""


def store_uri() -> str:
    """Return the tracking URI: ``$MLFLOW_TRACKING_URI``, or the SQLite file in ``mlruns/``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.home() / 'mlruns' / 'mlflow.db'}"


def connect() -> MlflowClient:
    """Point MLflow at the store in use, making a local one if it is not there, and return a client."""
    uri = store_uri()
    mlflow.set_tracking_uri(uri)
    return _client(uri)


@functools.cache
def _client(uri: str) -> MlflowClient:
    """Quieten MLflow, and make a local store once a process: two that migrate a new SQLite file at once leave it unusable."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith(("http://", "https://")):
        _require_listener(uri)
    if folder := _local_folder(uri):
        folder.mkdir(parents=True, exist_ok=True)
        with ExclusiveFileLock(str(folder / ".init.lock")):
            MlflowClient().search_experiments(max_results=1)
    return MlflowClient()


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


def experiment_id(client: MlflowClient, name: str, tags: dict[str, str] | None = None) -> str:
    """Return the id of an experiment, made if missing."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return create_experiment(client, name, tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return experiment_id(client, name)


def create_experiment(client: MlflowClient, name: str, tags: dict[str, str] | None = None) -> str:
    """Make an experiment and return its id; with a local store its artifacts lie beside the database."""
    folder = _local_folder(store_uri())
    location = (folder / "artifacts" / name).as_uri() if folder else None
    return str(client.create_experiment(name, artifact_location=location, tags=tags))


@contextmanager
def open_run(config: PipelineConfig, flow_run_id: str) -> Iterator[str]:
    """Open the MLflow run of a flow run, new or resumed, and yield its id; its final state tells how the block ended.

    Raises
    ------
    TrackingError
        If the run to resume does not exist, has finished, or had another configuration.
    """
    client = connect()
    tags = {FLOW_RUN: flow_run_id, PROCESS: provenance.process()}
    run_id = _resumed(client, config, tags) if config.tracking.resume else _started(client, config, tags)
    logger.info("run: %s", run_id)
    try:
        if not config.tracking.resume:
            _describe(run_id, config)
        yield run_id
    except Exception as error:
        logger.info("run: failed; once mended, go on with: %s", command_lines.dae(f"train --resume {run_id}"))
        client.set_tag(run_id, "error", f"{type(error).__name__}: {error}"[:5000])
        client.set_terminated(run_id, "FAILED")
        raise
    except BaseException:  # cancelled, terminated or interrupted
        logger.info("run: stopped; go on with: %s", command_lines.dae(f"train --resume {run_id}"))
        client.set_terminated(run_id, "KILLED")
        raise
    client.set_terminated(run_id, "FINISHED")


def _started(client: MlflowClient, config: PipelineConfig, own: dict[str, str]) -> str:
    """Open a new run; what tells who works on it is there from the first moment, for the sweeper."""
    tags = (
        own
        | {
            "config_digest": config.digest,
            "mlflow.source.name": "dae train",
            "mlflow.source.type": "LOCAL",
        }
        | provenance.git_tags()
    )
    tags["mlflow.source.git.commit"] = tags["git_commit"]
    created = client.create_run(experiment_id(client, config.tracking.experiment), tags=tags, run_name=config.run_name)
    return str(created.info.run_id)


def _describe(run_id: str, config: PipelineConfig) -> None:
    """Log what the run is made from."""
    client = MlflowClient()
    log_params(run_id, {key: str(value) for key, value in config.flat().items()})
    client.log_text(run_id, loading.dump(config), "config.yaml")
    client.log_text(run_id, provenance.requirements(), "environment/requirements.txt")
    client.log_dict(run_id, provenance.machine(), "environment/machine.json")


def _resumed(client: MlflowClient, config: PipelineConfig, own: dict[str, str]) -> str:
    run_id = str(config.tracking.resume)
    found = unfinished(client, run_id)
    if found.data.tags.get("config_digest") != config.digest:
        raise TrackingError(f"tracking.resume: run {run_id} had another configuration; resume it under its own")
    set_tags(run_id, own)  # before it runs, or a sweep would take it for the one that ended
    client.update_run(run_id, status="RUNNING")
    for tag in ENDED_BECAUSE:
        if tag in found.data.tags:
            client.delete_tag(run_id, tag)
    return run_id


def page(run_id: str) -> str:
    """Return the address of a run's page, or, without a server, the run's id and where its store lies."""
    uri = store_uri()
    if not uri.startswith(("http://", "https://")):
        return f"run {run_id} at {uri}"
    return f"{uri.rstrip('/')}/#/experiments/{get_run(connect(), run_id).info.experiment_id}/runs/{run_id}"


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
    """Return a run that has not finished, and that nothing works on as far as can be seen from here.

    Raises
    ------
    TrackingError
        If there is none of this id, it has finished, or its process lives.
    """
    found = get_run(client, run_id)
    if found.info.status == "FINISHED":
        raise TrackingError(f"only an unfinished run is resumed; run {run_id} is FINISHED")
    if found.info.status == "RUNNING" and provenance.runs(found.data.tags.get(PROCESS, "")):
        raise TrackingError(f"only a run that has stopped is resumed; run {run_id} is RUNNING, and its process lives")
    return found


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
