"""The Model Registry: every finished model becomes a version, and an alias names the one that is live."""

from __future__ import annotations

from mlflow.exceptions import MlflowException

from dae import tracking
from dae.config import PipelineConfig
from dae.records import ModelVersion, NoisySets, Scores, TrainedModel, Verdict

CHAMPION = "champion"


class RegistryError(RuntimeError):
    """The registry does not hold what was written to it."""


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
