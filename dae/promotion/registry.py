"""The registry: models as versions, each tagged with what it is, and aliases that name the champion and its challenger."""

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
"""How MLflow says that there is no such alias, or no such model or version. Whatever else it says is an error."""
ATTEMPTS, PAUSE = 8, 0.05


class RegistryError(RuntimeError):
    """The registry does not hold what was written to it, or what was asked for."""


def register(
    config: PipelineConfig, model: TrainedModel, scores: Scores, data_digest: str, noisy: NoisySets
) -> Candidate:
    """Make exactly the model that was scored a version, not judged yet, and, but in a dry run, the challenger.

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
    created = client.create_model_version(name, model.model_uri, model.run_id, tags=tags, model_id=model.model_id)
    candidate = Candidate(name=name, version=str(created.version), run_id=model.run_id, model_uri=model.model_uri)
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


def find_alias(name: str, which: str) -> str | None:
    """Return the version an alias names; None if the model or the alias does not exist.

    Raises
    ------
    MlflowException
        If the registry cannot be read, which is something else.
    """
    try:
        return str(connect().get_model_version_by_alias(name, which).version)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def find_champion(name: str) -> str | None:
    """Return the version that is live; None if there is none."""
    return find_alias(name, CHAMPION)


def set_alias(name: str, which: str, version: str | None) -> None:
    """Move an alias to a version, or remove it, and confirm by reading back.

    Raises
    ------
    RegistryError
        If it does not read back as it was set, though set again and again.
    """
    client = connect()
    for attempt in range(ATTEMPTS):
        if version is None:
            retry_write(lambda: client.delete_registered_model_alias(name, which))
        else:
            retry_write(lambda: client.set_registered_model_alias(name, which, version))
        if find_alias(name, which) == version:
            return
        time.sleep(PAUSE * (attempt + 1))
    raise RegistryError(f"alias {which} of {name} must read back as version {version}, found {find_alias(name, which)}")


def remove_alias(name: str, which: str, version: str) -> None:
    """Remove an alias from a version; where it names another one by now, that is left.

    Raises
    ------
    RegistryError
        If it still reads back as the version, though removed again and again.
    """
    for attempt in range(ATTEMPTS):
        if find_alias(name, which) != version:
            return
        retry_write(lambda: connect().delete_registered_model_alias(name, which))
        time.sleep(PAUSE * attempt)
    if find_alias(name, which) == version:
        raise RegistryError(f"alias {which} of {name} must be gone from version {version}, and is not")


def retry_write(write: Callable[[], object]) -> None:
    """Write something that can be written twice; of two processes that write it at once the store refuses one."""
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
    """Return a version as MLflow has it, aliases and tags included.

    Raises
    ------
    RegistryError
        If there is none of this number.
    """
    if not number.isdecimal():
        raise RegistryError(f"a version of {name} is a whole number, received {number}")
    try:
        return connect().get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        raise RegistryError(f"{name} has no version {number} at {store_uri()}") from error


def version_exists(name: str, number: str) -> bool:
    """Tell whether there is such a version."""
    try:
        get_version(name, number)
    except RegistryError:
        return False
    return True


def get_candidate(name: str, number: str) -> Candidate:
    """Return a version as a candidate for promotion.

    Raises
    ------
    RegistryError
        If there is none of this number, or no run made it.
    """
    found = get_version(name, number)
    if not found.run_id:
        raise RegistryError(f"version {number} of {name} must have been made by a run, and was not")
    return Candidate(name=name, version=str(found.version), run_id=found.run_id, model_uri=found.source)


def list_versions(name: str) -> list[Any]:
    """Return every version, the newest first; none if there is no such model."""
    search = connect().search_model_versions
    return list(iterate_pages(search, f"name='{name}'", order_by=["version_number DESC"]))


def list_aliases(name: str) -> dict[str, str]:
    """Return the version each alias names; none if there is no such model."""
    try:
        found = connect().get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code in ABSENT:
            return {}
        raise
    return {which: str(number) for which, number in found.items()}


def set_version_tags(name: str, number: str, tags: Mapping[str, str | None], description: str | None = None) -> None:
    """Set tags of a version, or remove those that are None, and set its description."""
    client = connect()
    for key, value in tags.items():
        if value is None:
            client.delete_model_version_tag(name, number, key)
        else:
            retry_write(functools.partial(client.set_model_version_tag, name, number, key, value))
    if description is not None:
        client.update_model_version(name, number, description)


def tag_run(run_id: str, tags: Mapping[str, str]) -> None:
    """Say on a run what became of its model, unless somebody has deleted the run: the version is still what it is."""
    try:
        retry_write(functools.partial(set_tags, run_id, tags))
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise


def _supersede(name: str, run_id: str) -> None:
    """Say of versions of a run that were never judged that a later one takes their place: the run was resumed."""
    for found in list_versions(name):
        if found.run_id == run_id and found.tags.get("verdict") == PENDING:
            set_version_tags(
                name, str(found.version), {"verdict": "superseded", "verdict_reasons": "the run was resumed"}
            )


def _tags(
    config: PipelineConfig, model: TrainedModel, scores: Scores, data_digest: str, noisy: NoisySets
) -> dict[str, str]:
    run = connect().get_run(model.run_id)
    figures = run_logging.split_metrics("val", scores.validation) | run_logging.split_metrics("test", scores.test)
    return {
        "verdict": PENDING,
        "config_digest": config.digest,
        "data_digest": data_digest,
        "noise_digest.validation": noisy.validation.sha256,
        "noise_digest.test": noisy.test.sha256,
        "model_sha256": models.read_sha256(model.model_id),
        "git_commit": run.data.tags.get("git_commit", "unknown"),
        "git_dirty": run.data.tags.get("git_dirty", "unknown"),
    } | {key: repr(value) for key, value in figures.items() if "mse" in key}
