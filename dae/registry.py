"""Models in MLflow: logged and loaded by URI, registered as versions, and one of them named by an alias as live."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException

from dae import past_runs, provenance, tracking
from dae.config import PipelineConfig, TrackingConfig
from dae.records import ModelVersion, NoisySets, Scores, TrainedModel, Verdict

CHAMPION = "champion"


class RegistryError(RuntimeError):
    """The registry does not hold what was written to it, or what was asked for."""


@dataclass(frozen=True)
class Located:
    """A stored model: its URI, the run that made it, and name and version if it was found as a version."""

    uri: str
    run_id: str
    name: str | None = None
    version: str | None = None


def log_model(run_id: str, model: Any, example: np.ndarray, name: str) -> tuple[str, str]:
    """Log a Keras model with its signature and an input example; return its id and its URI ``models:/m-...``."""
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    # Unnamed on purpose: a named input would reach Keras as a dictionary.
    schema = Schema(
        [TensorSpec(np.dtype("float32"), tuple(-1 if size is None else size for size in model.input_shape))]
    )
    # A model belongs to the experiment that is active, whatever experiment its run is in.
    mlflow.set_experiment(experiment_id=tracking.connect().get_run(run_id).info.experiment_id)
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
    ):  # MLflow tries the model, which draws a progress bar
        warnings.simplefilter("ignore")
        info = Model.log(
            None,
            _KerasFlavor,
            name=name,
            run_id=run_id,
            model=model,
            signature=ModelSignature(inputs=schema, outputs=schema),
            input_example=example,
            pip_requirements=provenance.model_requirements(),
        )
    return str(info.model_id), str(info.model_uri)


class _KerasFlavor:
    """MLflow's ``keras`` flavor, which runs on any backend, for models with an input example.

    MLflow 3.17 stores the example in a folder it has not made yet.
    """

    __name__ = "mlflow.keras"

    @staticmethod
    def save_model(path: str, **kwargs: Any) -> None:
        import mlflow.keras

        Path(path).mkdir(parents=True, exist_ok=True)
        mlflow.keras.save_model(path=path, **kwargs)


def load_model(model_uri: str) -> Any:
    """Return the Keras model stored under a URI, whatever backend it was trained on."""
    import keras
    import mlflow.artifacts

    tracking.connect()
    folder = Path(mlflow.artifacts.download_artifacts(model_uri))
    return keras.saving.load_model(folder / "data" / "model.keras", safe_mode=True, compile=False)


def locate(reference: str, name: str = TrackingConfig().model_name) -> Located:
    """Return where a model lies.

    Parameters
    ----------
    reference : str
        ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``models:/m-ID``, a version number, or a run's id.
    name : str
        Registered model that a version number is one of.

    Raises
    ------
    RegistryError
        If there is no such model, or no run logged it.
    """
    client = tracking.connect()
    path = reference.removeprefix("models:/")
    try:
        if reference.isdecimal() and len(reference) < past_runs.RUN_ID_LENGTH:
            return _located(client.get_model_version(name, reference))
        if path == reference:
            return _of_run(client.get_run(reference.removeprefix("runs:/").partition("/")[0]))
        if "@" in path:
            return _located(client.get_model_version_by_alias(*path.rsplit("@", 1)))
        if "/" in path:
            return _located(client.get_model_version(*path.rsplit("/", 1)))
        found = client.get_logged_model(path)
    except MlflowException as error:
        raise RegistryError(f"no model {reference} at {tracking.store_uri()}: {error.message}") from error
    return Located(f"models:/{path}", _run_of(found, reference))


def _located(version: Any) -> Located:
    uri = f"models:/{version.name}/{version.version}"
    return Located(uri, _run_of(version, uri), version.name, str(version.version))


def _run_of(model: Any, reference: str) -> str:
    run_id: str | None = getattr(model, "source_run_id", None) or getattr(model, "run_id", None)
    if not run_id:
        raise RegistryError(f"{reference}: must have been logged by a run, and was not")
    return run_id


def _of_run(run: Any) -> Located:
    """Return the model a run logged: the last one, where it was resumed after logging."""
    logged = run.outputs.model_outputs if run.outputs else []
    if not logged:
        raise RegistryError(f"run {run.info.run_id} holds no model: it is {run.info.status}")
    return Located(f"models:/{logged[-1].model_id}", run.info.run_id)


def register(
    config: PipelineConfig, model: TrainedModel, scores: Scores, verdict: Verdict, data_digest: str, noisy: NoisySets
) -> ModelVersion:
    """Make exactly the model that was scored a version, and the champion if the verdict says so.

    Raises
    ------
    RegistryError
        If the scores belong to another model, or the alias does not read back as it was set.
    """
    if scores.model_uri != model.model_uri:
        raise RegistryError(f"the scores must be those of {model.model_uri}, received those of {scores.model_uri}")
    client = tracking.connect()
    name = config.tracking.model_name
    tags = _tags(config, model, scores, verdict, data_digest, noisy)
    _ensure_model(name)
    created = client.create_model_version(name, model.model_uri, model.run_id, tags=tags, model_id=model.model_id)
    version = str(created.version)
    if verdict.promoted:
        client.set_registered_model_alias(name, CHAMPION, version)
        if champion(name) != version:
            raise RegistryError(
                f"alias {CHAMPION} of {name} must read back as version {version}, found {champion(name)}"
            )
    aliases = tuple(client.get_model_version(name, version).aliases)
    tracking.set_tags(model.run_id, {"verdict": verdict.word, "model_version": version})
    return ModelVersion(name=name, version=version, model_uri=model.model_uri, verdict=verdict, aliases=aliases)


def _ensure_model(name: str) -> None:
    try:
        tracking.connect().create_registered_model(name, description="Denoisers made by the flow train-denoiser.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def champion(name: str) -> str | None:
    """Return the version the champion alias names; None if the model or the alias does not exist."""
    try:
        return str(tracking.connect().get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise


def _tags(
    config: PipelineConfig, model: TrainedModel, scores: Scores, verdict: Verdict, data_digest: str, noisy: NoisySets
) -> dict[str, str]:
    run = tracking.connect().get_run(model.run_id)
    figures = tracking.split_metrics("val", scores.validation) | tracking.split_metrics("test", scores.test)
    return {
        "verdict": verdict.word,
        "verdict_reasons": "; ".join(verdict.reasons)[:5000],
        "config_digest": config.digest,
        "data_digest": data_digest,
        "noise_digest.validation": noisy.validation.sha256,
        "noise_digest.test": noisy.test.sha256,
        "git_commit": run.data.tags.get("git_commit", "unknown"),
        "git_dirty": run.data.tags.get("git_dirty", "unknown"),
    } | {key: repr(value) for key, value in figures.items() if "mse" in key}
