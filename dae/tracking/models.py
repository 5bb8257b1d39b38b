"""Stored models: finding them by alias, version, run or URI, and loading them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from dae import storage
from dae.config.schema import TrackingConfig
from dae.schemas import TrainingDomain
from dae.tracking.client import RUN_ID_LENGTH, connect, store_uri

SHA256 = "model_sha256"
logger = logging.getLogger(__name__)


class ModelError(RuntimeError):
    """The model does not exist or cannot be read."""


@dataclass(frozen=True)
class ModelLocation:
    """A stored model: its URI, the run that logged it, and its name and version if it was located as a version."""

    uri: str
    run_id: str
    name: str | None = None
    version: str | None = None


def read_sha256(model_id: str) -> str:
    """Return the digest of a logged model's file from when it was logged; empty if none was recorded."""
    return str(connect().get_logged_model(model_id).tags.get(SHA256, ""))


def load_model(model_uri: str) -> Any:
    """Return the Keras model stored under a URI, on any backend.

    Raises
    ------
    ModelError
        If its files are missing or damaged.
    MlflowException
        If the store cannot be read.
    """
    import keras

    folder = download_model(model_uri)
    try:
        return keras.saving.load_model(folder / storage.MODEL, safe_mode=True, compile=False)
    except MemoryError:
        raise
    except Exception as error:  # Keras raises many types for a damaged file
        raise ModelError(f"{model_uri} cannot be loaded: {type(error).__name__}: {error}") from error


def download_model(model_uri: str, folder: Path | None = None) -> Path:
    """Return the folder with a stored model's files, which are copied into `folder` if one is passed.

    Raises
    ------
    ModelError
        If the files are missing.
    """
    import mlflow.artifacts

    connect()
    try:
        path = Path(mlflow.artifacts.download_artifacts(model_uri, dst_path=str(folder) if folder else None))
    except FileNotFoundError as error:
        raise ModelError(f"the files of {model_uri} are gone: {error}") from error
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ModelError(f"the files of {model_uri} are gone: {error.message}") from error
    if not (path / storage.MODEL).is_file():  # a server returns an empty folder for missing files
        raise ModelError(f"the files of {model_uri} are gone: there is no {storage.MODEL}")
    return path


def locate_model(reference: str, name: str = TrackingConfig().model_name) -> ModelLocation:
    """Return the location of a model.

    Parameters
    ----------
    reference : str
        ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``models:/m-ID``, a version number, or a run id.
    name : str
        The registered model of a version number.

    Raises
    ------
    ModelError
        If there is no such model, or no run logged it.
    """
    client = connect()
    path = reference.removeprefix("models:/")
    try:
        if reference.isdecimal() and len(reference) < RUN_ID_LENGTH:
            return _located(client.get_model_version(name, reference))
        if path == reference:
            return _of_run(client.get_run(reference.removeprefix("runs:/").partition("/")[0]))
        if "@" in path:
            return _located(client.get_model_version_by_alias(*path.rsplit("@", 1)))
        if "/" in path:
            return _located(client.get_model_version(*path.rsplit("/", 1)))
        model = client.get_logged_model(path)
        run_id = _run_of(model, reference)
        _warn_if_forced(client.get_run(run_id))
    except MlflowException as error:
        raise ModelError(f"no model {reference} at {store_uri()}: {error.message}") from error
    return ModelLocation(f"models:/{path}", run_id)


def _located(version: Any) -> ModelLocation:
    uri = f"models:/{version.name}/{version.version}"
    if "forced_reason" in version.tags:  # everybody who uses it is warned
        by, when, why = (version.tags.get(f"forced_{what}", "unknown") for what in ("by", "at", "reason"))
        logger.warning("version %s of %s was FORCED by %s at %s: %s", version.version, version.name, by, when, why)
    return ModelLocation(uri, _run_of(version, uri), version.name, str(version.version))


def _run_of(model: Any, reference: str) -> str:
    run_id: str | None = getattr(model, "source_run_id", None) or getattr(model, "run_id", None)
    if not run_id:
        raise ModelError(f"{reference}: must have been logged by a run, and was not")
    return run_id


def _of_run(run: Any) -> ModelLocation:
    """Return the model that a run logged: the last one, if the run was resumed after logging."""
    logged = run.outputs.model_outputs if run.outputs else []
    if not logged:
        raise ModelError(f"run {run.info.run_id} holds no model: it is {run.info.status}")
    _warn_if_forced(run)
    return ModelLocation(f"models:/{logged[-1].model_id}", run.info.run_id)


def _warn_if_forced(run: Any) -> None:
    if run.data.tags.get("verdict") == "forced":
        version, name = run.data.tags.get("model_version"), run.data.params.get("tracking.model_name")
        logger.warning("version %s of %s, made by run %s, was FORCED", version, name, run.info.run_id)


@dataclass(frozen=True)
class OpenedModel:
    """A Keras model, its location unless it came from a file, and its training domain if that was stored."""

    model: Any
    located: ModelLocation | None = None
    trained_on: TrainingDomain | None = None


def resolve_reference(reference: str) -> str:
    """Return a reference that always names the same model: the version instead of an alias, and a file's absolute path.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    if not reference.endswith(".keras"):
        return locate_model(reference).uri
    if not Path(reference).is_file():
        raise ModelError(f"{reference}: must be a model saved by Keras; found no such file")
    return str(Path(reference).resolve())


def open_model(reference: str) -> OpenedModel:
    """Return the model of a ``.keras`` file, or the one that `locate_model` finds.

    Raises
    ------
    ModelError
        If there is no such model, or it cannot be read.
    """
    if not reference.endswith(".keras"):
        location = locate_model(reference)
        return OpenedModel(load_model(location.uri), location, _trained_on(download_model(location.uri)))
    import zipfile

    import keras

    if not Path(reference).is_file():
        raise ModelError(f"{reference}: must be a model saved by Keras; found no such file")
    if not zipfile.is_zipfile(reference):  # Keras would report it as missing
        raise ModelError(f"{reference}: must be a model saved by Keras; found a file that is none")
    try:
        return OpenedModel(keras.saving.load_model(reference, safe_mode=True, compile=False))
    except MemoryError:
        raise
    except Exception as error:  # Keras raises many types for a damaged file
        message = f"{type(error).__name__}: {error}"
        raise ModelError(f"{reference}: must be a model saved by Keras; found {message}") from error


def _trained_on(folder: Path) -> TrainingDomain | None:
    """Return the training domain that was stored with a model; older models have none."""
    from mlflow.models import Model

    tree = (Model.load(folder).metadata or {}).get("trained_on")
    return TrainingDomain.model_validate(tree) if tree else None
