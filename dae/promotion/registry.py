"""The registry: models as tagged versions, and aliases that name the champion and the challenger."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from mlflow.exceptions import MlflowException

from dae.config.schema import PipelineConfig
from dae.promotion.schemas import Candidate
from dae.schemas import NoisySets, Scores, TrainedModel
from dae.tracking import models, run_logging
from dae.tracking.client import connect, iterate_pages, store_uri
from dae.tracking.run_logging import set_tags

CHAMPION = "champion"
CHALLENGER = "challenger"
PENDING = "pending"
ABSENT = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
"""MLflow's codes for an alias, a model or a version that does not exist. Any other code is an error."""
ATTEMPTS, PAUSE = 8, 0.05


class RegistryError(RuntimeError):
    """The registry does not hold what was written to it, or what a caller needs."""


def register(
    config: PipelineConfig, model: TrainedModel, scores: Scores, data_digest: str, noisy: NoisySets
) -> Candidate:
    """Register the model that was scored as a pending version, and make it the challenger unless it is a dry run.

    Raises
    ------
    RegistryError
        If the scores belong to another model.
    """
    if scores.model_uri != model.model_uri:
        raise RegistryError(f"the scores must be those of {model.model_uri}, received those of {scores.model_uri}")
    client = connect()
    name = config.tracking.model_name
    tags = _tags(config, model, scores, data_digest, noisy)
    _ensure_model(name)
    _supersede(name, model.run_id)
    version = client.create_model_version(name, model.model_uri, model.run_id, tags=tags, model_id=model.model_id)
    candidate = Candidate(name=name, version=str(version.version), run_id=model.run_id, model_uri=model.model_uri)
    set_tags(model.run_id, {"model_version": candidate.version})
    if not config.gate.dry_run:
        set_alias(name, CHALLENGER, candidate.version)
    return candidate


def _ensure_model(name: str) -> None:
    try:
        connect().create_registered_model(name, description="Denoisers made by the flow train-denoiser.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def find_alias(name: str, alias: str) -> str | None:
    """Return the version an alias names; None if the model or the alias does not exist.

    Raises
    ------
    MlflowException
        If the registry cannot be read.
    """
    try:
        return str(connect().get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def find_champion(name: str) -> str | None:
    """Return the version of the champion; None if there is none."""
    return find_alias(name, CHAMPION)


def set_alias(name: str, alias: str, version: str | None) -> None:
    """Move an alias to a version, or remove it if the version is None.

    The alias is read back each time: another process may move it at the same moment.

    Raises
    ------
    RegistryError
        If it still does not read back as it was set after several attempts.
    """
    client = connect()
    for attempt in range(ATTEMPTS):
        if version is None:
            retry_write(lambda: client.delete_registered_model_alias(name, alias))
        else:
            retry_write(lambda: client.set_registered_model_alias(name, alias, version))
        current = find_alias(name, alias)
        if current == version:
            return
        time.sleep(PAUSE * (attempt + 1))
    raise RegistryError(f"alias {alias} of {name} must read back as version {version}, found {current}")


def remove_alias(name: str, alias: str, version: str) -> None:
    """Remove an alias from a version. If it names another version by now, it is left.

    Raises
    ------
    RegistryError
        If it still names the version after several attempts.
    """
    for attempt in range(ATTEMPTS):
        if find_alias(name, alias) != version:
            return
        retry_write(lambda: connect().delete_registered_model_alias(name, alias))
        time.sleep(PAUSE * attempt)
    if find_alias(name, alias) == version:
        raise RegistryError(f"alias {alias} of {name} must no longer name version {version}, but it does")


def retry_write(write: Callable[[], object]) -> None:
    """Repeat a write that can be done twice: if two processes write at once, the store refuses one of them."""
    for attempt in range(ATTEMPTS):
        try:
            write()
        except MlflowException as error:
            if error.error_code in ABSENT or attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE * (attempt + 1))
        else:
            return


def get_version(name: str, number: str) -> Any:
    """Return a version as MLflow's record, with its aliases and tags.

    Raises
    ------
    RegistryError
        If there is no version with this number.
    """
    if not number.isdecimal():
        raise RegistryError(f"a version of {name} is a whole number, received {number}")
    try:
        return connect().get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        raise RegistryError(f"{name} has no version {number} at {store_uri()}") from error


def find_version(name: str, number: str) -> Any:
    """Return a version as `get_version` does; None if there is none."""
    try:
        return get_version(name, number)
    except RegistryError:
        return None


def version_exists(name: str, number: str) -> bool:
    """Tell whether there is such a version."""
    return find_version(name, number) is not None


def get_candidate(name: str, number: str) -> Candidate:
    """Return a version as a candidate for promotion.

    Raises
    ------
    RegistryError
        If there is no version with this number, or it has no run.
    """
    version = get_version(name, number)
    if not version.run_id:
        raise RegistryError(f"version {number} of {name} must belong to a run, but has none")
    return Candidate(name=name, version=str(version.version), run_id=version.run_id, model_uri=version.source)


def list_versions(name: str) -> list[Any]:
    """Return all versions, newest first; an empty list if there is no such model."""
    search = connect().search_model_versions
    return list(iterate_pages(search, f"name='{name}'", order_by=["version_number DESC"]))


def list_aliases(name: str) -> dict[str, str]:
    """Return the version of each alias; an empty dict if there is no such model."""
    try:
        aliases = connect().get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code in ABSENT:
            return {}
        raise
    return {alias: str(number) for alias, number in aliases.items()}


def set_version_tags(name: str, number: str, tags: Mapping[str, str | None], description: str | None = None) -> None:
    """Set the tags of a version, remove those that are None, and set its description if one is given."""
    client = connect()
    for key, value in tags.items():
        if value is None:
            client.delete_model_version_tag(name, number, key)
        else:
            retry_write(functools.partial(client.set_model_version_tag, name, number, key, value))
    if description is not None:
        client.update_model_version(name, number, description)


def tag_run(run_id: str, tags: Mapping[str, str]) -> None:
    """Tag a run with the outcome for its model. A deleted run is no error: the version exists without it."""
    try:
        retry_write(functools.partial(set_tags, run_id, tags))
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise


def _supersede(name: str, run_id: str) -> None:
    """Mark the pending versions of a run as superseded: the run was resumed, and registers a new version."""
    for version in list_versions(name):
        if version.run_id == run_id and version.tags.get("verdict") == PENDING:
            set_version_tags(
                name, str(version.version), {"verdict": "superseded", "verdict_reasons": "the run was resumed"}
            )


def _tags(
    config: PipelineConfig, model: TrainedModel, scores: Scores, data_digest: str, noisy: NoisySets
) -> dict[str, str]:
    run = connect().get_run(model.run_id)
    metrics = run_logging.split_metrics("val", scores.validation) | run_logging.split_metrics("test", scores.test)
    return {
        "verdict": PENDING,
        "config_digest": config.digest,
        "data_digest": data_digest,
        "noise_digest.validation": noisy.validation.sha256,
        "noise_digest.test": noisy.test.sha256,
        "model_sha256": models.read_sha256(model.model_id),
        "git_commit": run.data.tags.get("git_commit", "unknown"),
        "git_dirty": run.data.tags.get("git_dirty", "unknown"),
    } | {key: repr(value) for key, value in metrics.items() if "mse" in key}
