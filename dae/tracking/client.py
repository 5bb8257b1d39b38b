"""The MLflow store: connecting to it, its experiments and its errors. Every call names its run; no run is "active"."""

from __future__ import annotations

import errno
import functools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import ExclusiveFileLock
from sqlalchemy.exc import OperationalError

from dae import storage

FLOW_RUN = "prefect.flow_run_id"
PROCESS = "dae.process"
CHECKS = "dae.checks"
"""Tag of an experiment whose runs train nothing, so that the table of runs leaves them out."""
RUN_ID_LENGTH = 32
SERVER = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
DISK = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
logger = logging.getLogger(__name__)


class TrackingError(RuntimeError):
    """The record of a run cannot be read or written."""


def store_uri() -> str:
    """Return the tracking URI: ``$MLFLOW_TRACKING_URI``, or the SQLite file in ``mlruns/``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.project_home() / 'mlruns' / 'mlflow.db'}"


def connect() -> MlflowClient:
    """Point MLflow at the store in use, create a local one if it does not exist, and return a client."""
    uri = store_uri()
    mlflow.set_tracking_uri(uri)
    return _client(uri)


@functools.cache
def _client(uri: str) -> MlflowClient:
    """Silence MLflow, and create a local store under a lock: two processes that migrate a new SQLite file would break it."""
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
    """Fail at once if no server listens: MLflow's own client would retry for minutes."""
    address = urlsplit(uri)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise TrackingError(f"MLFLOW_TRACKING_URI: no server answers at {uri}: {error}") from error


def _local_folder(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).resolve().parent if uri.startswith("sqlite:///") else None


def experiment_id(client: MlflowClient, name: str, tags: dict[str, str] | None = None) -> str:
    """Return the id of an experiment, which is created if it does not exist."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    try:
        return create_experiment(client, name, tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return experiment_id(client, name)


def create_experiment(client: MlflowClient, name: str, tags: dict[str, str] | None = None) -> str:
    """Create an experiment and return its id. With a local store, its artifacts are stored beside the database."""
    folder = _local_folder(store_uri())
    location = (folder / "artifacts" / name).as_uri() if folder else None
    return str(client.create_experiment(name, artifact_location=location, tags=tags))


def experiment_ids(client: MlflowClient) -> list[str]:
    """Return the ids of all experiments that are not deleted."""
    return [str(experiment.experiment_id) for experiment in iterate_pages(client.search_experiments)]


def iterate_pages(search: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Yield all results of a search of MLflow's client, page by page."""
    token: str | None = None
    while True:
        page = search(*args, **kwargs, page_token=token)
        yield from page
        token = page.token or None
        if token is None:
            return


def run_url(run_id: str) -> str:
    """Return the address of a run's page, or, without a server, the run's id and the address of its store."""
    uri = store_uri()
    if not uri.startswith(("http://", "https://")):
        return f"run {run_id} at {uri}"
    return f"{uri.rstrip('/')}/#/experiments/{get_run(connect(), run_id).info.experiment_id}/runs/{run_id}"


def get_run(client: MlflowClient, run_id: str) -> Any:
    """Return a run.

    Raises
    ------
    TrackingError
        If there is no run with this id.
    """
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise TrackingError(f"no run {run_id} at {store_uri()}: {error.message}") from error


def is_transient(error: BaseException) -> bool:
    """Return whether the same work may succeed if it is repeated.

    Examples
    --------
    >>> is_transient(ConnectionResetError()), is_transient(ValueError("train.epochs must be at least 1"))
    (True, False)
    """
    if isinstance(error, MlflowException):
        return error.error_code in SERVER
    if isinstance(error, OSError) and error.errno in DISK:
        return True
    return isinstance(error, ConnectionError | TimeoutError | requests.ConnectionError | OperationalError)
