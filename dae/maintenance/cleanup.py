"""Clean-up: each item of a plan of `dae.maintenance.retention` is checked once more and then removed.

The versions of a run are removed first, then its models, then its files, and the run itself last. So, wherever a crash
interrupts this, no registered version lacks its files, and the next clean-up finds the rest.
"""

from __future__ import annotations

import copy
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
    """A version has an alias, so it is not removed."""


def plan(policy: RetentionPolicy) -> CleanupPlan:
    """Return what can be removed now, with sizes, and what is kept. Nothing is changed.

    Raises
    ------
    AuditLogError, MlflowException
        If the store, the registry or an audit log cannot be read.
    """
    cleanup_plan = retention.plan_cleanup(inventory.take_inventory(), policy, time.time())
    client = connect()
    return cleanup_plan.model_copy(update={"items": tuple(_with_size(client, item) for item in cleanup_plan.items)})


def remove_item(item: CleanupItem, policy: RetentionPolicy) -> bool:
    """Remove an item if nothing protects it by now. Tell whether it was removed.

    Raises
    ------
    AuditLogError, MlflowException
        If what protects it cannot be read, or it cannot be removed.
    """
    # Read again: since the plan was made, an alias may have been set, a run may have started, or a folder may have been used.
    if item.what in FOLDERS:
        state = inventory.folder_inventory(_folder(item))
        any_model = policy.model_copy(update={"names": ()})  # the run that names the model may be removed already
        return _find_again(item, state, any_model) is not None and inventory.remove_folder(state.folders[0])
    current = _find_again(item, inventory.take_inventory([item.id]), policy)
    if current is None:
        return False
    client = connect()
    try:
        for name, number in current.versions:
            delete_version(client, name, number)
    except AliasError:
        return False
    for model_id in current.models:
        _delete_model(client, model_id, item.id)
    _delete_run(client, item.id)
    return True


def removes_for_good() -> bool:
    """Tell whether removed runs are gone for good. Through a server, ``mlflow gc`` there removes what is left of them."""
    return inventory.can_remove(connect())


def delete_version(client: MlflowClient, name: str, number: str) -> None:
    """Delete a version that has no alias.

    MLflow's own deletion also deletes the aliases of the version. If the registry is a database that this process opens itself,
    the transaction fails instead. Through a server, the aliases are read just before.

    Raises
    ------
    AliasError
        If it has an alias.
    """
    version = client.get_model_version(name, number)
    if version.aliases:
        raise AliasError(f"version {number} of {name} is {', '.join(version.aliases)}")
    store = client._get_registry_client().store  # type: ignore[no-untyped-call]
    if not hasattr(store, "ManagedSessionMaker"):  # through a server
        client.delete_model_version(name, number)
        return
    try:
        _keeping_aliases(store).delete_model_version(name, number)
    except MlflowException as error:
        if isinstance(error.__cause__, AliasError):
            raise error.__cause__ from None
        raise


def _keeping_aliases(store: Any) -> Any:
    """Return a copy of a database store whose transactions fail where they would delete an alias. The store is unchanged."""
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias
    from sqlalchemy import event

    def refuse(session: Any, _context: Any, _instances: Any) -> None:
        for row in session.deleted:
            if isinstance(row, SqlRegisteredModelAlias):
                raise AliasError(f"version {row.version} of {row.name} got the alias {row.alias} meanwhile")

    @contextmanager
    def make_session(**options: Any) -> Iterator[Any]:
        with store.ManagedSessionMaker(**options) as session:
            event.listen(session, "before_flush", refuse)  # for this database transaction only
            yield session

    keeping = copy.copy(store)
    keeping.ManagedSessionMaker = make_session
    return keeping


def _find_again(item: CleanupItem, state: Inventory, policy: RetentionPolicy) -> CleanupItem | None:
    """Return an item as it is in a new inventory; None if it is protected there, or gone."""
    items = retention.plan_cleanup(state, policy, time.time()).items
    return next((current for current in items if (current.what, current.id) == (item.what, item.id)), None)


def _folder(item: CleanupItem) -> Folder:
    run_id = Path(item.id).name if item.what == "checkpoint" else None
    return Folder(what=item.what, path=item.id, used=0, run_id=run_id)


def _delete_model(client: MlflowClient, model_id: str, run_id: str) -> None:
    store = client._tracking_client.store
    for_good = inventory.can_remove(client)
    try:
        model = store.get_logged_model(model_id, allow_deleted=True) if for_good else client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise
    if model.source_run_id != run_id:  # an output of this run that another run logged
        return
    _delete_files(model.artifact_location)
    if for_good:
        store._hard_delete_logged_model(model_id)
    else:
        client.delete_logged_model(model_id)


def _delete_run(client: MlflowClient, run_id: str) -> None:
    _delete_files(client.get_run(run_id).info.artifact_uri)
    if inventory.can_remove(client):
        client._tracking_client.store._hard_delete_run(run_id)
    else:
        client.delete_run(run_id)


def _delete_files(uri: str) -> None:
    repository: Any = get_artifact_repository(uri)
    repository.delete_artifacts()
    if uri.startswith("file:"):
        with suppress(OSError):  # the parent folder is removed if it is empty
            Path(url2pathname(urlsplit(uri).path)).parent.rmdir()


def _with_size(client: MlflowClient, item: CleanupItem) -> CleanupItem:
    if item.what in FOLDERS:
        return item.model_copy(update={"size": inventory.folder_size(storage.cache_folder() / item.id)})
    uris = [client.get_run(item.id).info.artifact_uri]
    for model_id in item.models:
        with suppress(MlflowException):
            uris.append(client.get_logged_model(model_id).artifact_location)
    return item.model_copy(update={"size": sum(_artifact_size(get_artifact_repository(uri)) for uri in uris)})


def _artifact_size(repository: Any, path: str | None = None) -> int:
    files = repository.list_artifacts(path)
    return sum(_artifact_size(repository, file.path) if file.is_dir else file.file_size or 0 for file in files)
