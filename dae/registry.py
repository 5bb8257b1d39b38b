"""Models in MLflow: logged and loaded by URI, registered as versions, and one of them named by an alias as live."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException

from dae import provenance, tracking
from dae.config import PipelineConfig
from dae.records import ModelVersion, NoisySets, Scores, TrainedModel, Verdict

CHAMPION = "champion"


class RegistryError(RuntimeError):
    """The registry does not hold what was written to it."""


def log_model(run_id: str, model: Any, example: np.ndarray, name: str) -> tuple[str, str]:
    """Log a Keras model with its signature and an input example; return its id and its URI ``models:/m-...``."""
    import mlflow.tensorflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    # Unnamed on purpose: a named input would reach Keras as a dictionary.
    schema = Schema(
        [TensorSpec(np.dtype("float32"), tuple(-1 if size is None else size for size in model.input_shape))]
    )
    # A model belongs to the experiment that is active, whatever experiment its run is in.
    mlflow.set_experiment(experiment_id=tracking.connect().get_run(run_id).info.experiment_id)
    with warnings.catch_warnings(), _no_progress_bar():
        warnings.simplefilter("ignore")
        info = Model.log(
            None,
            mlflow.tensorflow,
            name=name,
            run_id=run_id,
            model=model,
            signature=ModelSignature(inputs=schema, outputs=schema),
            input_example=example,
            pip_requirements=provenance.model_requirements(),
        )
    return str(info.model_id), str(info.model_uri)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep Keras from drawing a progress bar where MLflow tries a model on its input example."""
    import keras

    shown = keras.config.is_interactive_logging_enabled()
    keras.config.disable_interactive_logging()
    try:
        yield
    finally:
        if shown:
            keras.config.enable_interactive_logging()


def load_model(model_uri: str) -> Any:
    """Return the Keras model stored under a URI."""
    import mlflow.tensorflow

    tracking.connect()
    return mlflow.tensorflow.load_model(model_uri, keras_model_kwargs={"safe_mode": True, "compile": False})


def uri_of(model: str, name: str) -> str:
    """Return the URI of a model given as one, as a version of the registered model `name`, or as the id of its run."""
    if ":/" in model:
        return model
    return f"models:/{name}/{model}" if model.isdecimal() else f"runs:/{model}/{name}"


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
