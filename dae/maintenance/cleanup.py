"""Clean-up: what `dae.maintenance.retention` chose is checked once more, one thing at a time, and removed.

The versions of a run are removed first, then its models, then its files, and the run itself last. So, wherever a crash cuts
this short, nothing that is registered lacks its files, and the next clean-up finds the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from dae import storage
from dae.maintenance import inventory, retention
from dae.maintenance.inventory import Folder, Inventory
from dae.maintenance.retention import CleanupItem, CleanupPlan, RetentionPolicy
from dae.tracking.client import connect

FOLDERS = ("images", "noise", "checkpoint", "draft")


class AliasError(RuntimeError):
    """A version has an alias, and is not removed."""


def plan(wish: RetentionPolicy) -> CleanupPlan:
    """Return what may go now, with sizes, and what stays; nothing is changed.

    Raises
    ------
    LedgerError, MlflowException
        If the store, the registry or a ledger cannot be read.
    """
    choice = retention.plan_cleanup(inventory.take_inventory(), wish, time.time())
    client = connect()
    return choice.model_copy(update={"items": tuple(_sized(client, item) for item in choice.items)})


def remove_item(item: CleanupItem, wish: RetentionPolicy) -> bool:
    """Remove one thing if it may still go; tell whether it is gone.

    Raises
    ------
    LedgerError, MlflowException
        If what protects it cannot be read, or it cannot be removed.
    """
    if item.what in FOLDERS:
        state = inventory.folder_inventory(_folder(item))
        anyones = wish.model_copy(update={"names": ()})  # the run that told whose it was may be gone by now
        return _still(item, state, anyones) is not None and inventory.remove_folder(state.folders[0])
    state = inventory.take_inventory([item.id])
    now = _still(item, state, wish)
    if now is None:
        return False
    client = connect()
    try:
        for name, number in now.versions:
            delete_version(client, name, number)
    except AliasError:
        return False
    for model_id in now.models:
        _delete_model(client, model_id, item.id)
    _delete_run(client, item.id)
    return True


def removes_for_good() -> bool:
    """Tell whether removed runs are gone for good; through a server, ``mlflow gc`` there removes what is left of them."""
    return inventory.can_remove(connect())


def delete_version(client: MlflowClient, name: str, number: str) -> None:
    """Delete a version that has no alias.

    MLflow's own deletion drops the aliases of the version. Here, in a database of one's own, the same transaction fails that
    would drop one; through a server, the aliases are read just before.

    Raises
    ------
    AliasError
        If it has one.
    """
    found = client.get_model_version(name, number)
    if found.aliases:
        raise AliasError(f"version {number} of {name} is {', '.join(found.aliases)}")
    with _aliases_stay():
        try:
            client.delete_model_version(name, number)
        except MlflowException as error:
            if isinstance(error.__cause__, AliasError):
                raise error.__cause__ from None
            raise


@contextmanager
def _aliases_stay() -> Iterator[None]:
    """Make every deletion of an alias in this process fail."""
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias
    from sqlalchemy import event

    def refuse(_mapper: Any, _connection: Any, alias: Any) -> None:
        raise AliasError(f"version {alias.version} of {alias.name} became {alias.alias} meanwhile")

    event.listen(SqlRegisteredModelAlias, "before_delete", refuse)
    try:
        yield
    finally:
        event.remove(SqlRegisteredModelAlias, "before_delete", refuse)


def _still(item: CleanupItem, state: Inventory, wish: RetentionPolicy) -> CleanupItem | None:
    """Return an item as it is now, if it may still go."""
    found = retention.plan_cleanup(state, wish, time.time()).items
    return next((each for each in found if (each.what, each.id) == (item.what, item.id)), None)


def _folder(item: CleanupItem) -> Folder:
    run_id = Path(item.id).name if item.what == "checkpoint" else None
    return Folder(what=item.what, path=item.id, used=0, run_id=run_id)


def _delete_model(client: MlflowClient, model_id: str, run_id: str) -> None:
    store_of = client._tracking_client.store
    hard = inventory.can_remove(client)
    try:
        model = store_of.get_logged_model(model_id, allow_deleted=True) if hard else client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise
    if model.source_run_id != run_id:  # given to the run as an output, but made by another
        return
    _delete_files(model.artifact_location)
    if hard:
        store_of._hard_delete_logged_model(model_id)
    else:
        client.delete_logged_model(model_id)


def _delete_run(client: MlflowClient, run_id: str) -> None:
    _delete_files(client.get_run(run_id).info.artifact_uri)
    if inventory.can_remove(client):
        client._tracking_client.store._hard_delete_run(run_id)
    else:
        client.delete_run(run_id)


def _delete_files(uri: str) -> None:
    files: Any = get_artifact_repository(uri)
    files.delete_artifacts()
    if uri.startswith("file:"):
        with suppress(OSError):  # what is left around them, if that is empty
            Path(url2pathname(urlsplit(uri).path)).parent.rmdir()


def _sized(client: MlflowClient, item: CleanupItem) -> CleanupItem:
    if item.what in FOLDERS:
        return item.model_copy(update={"size": inventory.folder_size(storage.cache_folder() / item.id)})
    uris = [client.get_run(item.id).info.artifact_uri]
    for model_id in item.models:
        with suppress(MlflowException):
            uris.append(client.get_logged_model(model_id).artifact_location)
    return item.model_copy(update={"size": sum(_size(get_artifact_repository(uri)) for uri in uris)})


def _size(files: Any, path: str | None = None) -> int:
    found = files.list_artifacts(path)
    return sum(_size(files, each.path) if each.is_dir else each.file_size or 0 for each in found)
