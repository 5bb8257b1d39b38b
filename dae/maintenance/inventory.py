"""The inventory: all runs, versions, audit logs and cached folders, as small frozen records."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from pydantic import Field

from dae import storage
from dae.promotion import audit_log
from dae.promotion.history import AuditEntry
from dae.schemas import FrozenModel
from dae.tracking.client import connect, iterate_pages
from dae.tracking.runs import DIGESTS, NEEDED_UNTIL, read_needed_until

What = Literal["run", "baseline", "images", "noise", "checkpoint", "draft"]
ACTIVE = ("RUNNING", "SCHEDULED")
KINDS: dict[str, What] = {"images": "images", "noisy": "noise", "checkpoints": "checkpoint"}
DRAFT = re.compile(r"\..+-.+")
PAGE = 1000


class Version(FrozenModel):
    """A registered version: where it is stored, its run, and the digests of the images and the noise it was scored on."""

    name: str
    number: str
    source: str
    run_id: str | None
    aliases: tuple[str, ...] = ()
    verdict: str | None = None
    digests: frozenset[str] = frozenset()


class Run(FrozenModel):
    """An MLflow run, of this pipeline or not. Times are in seconds since the epoch.

    Attributes
    ----------
    ours : bool
        Whether this pipeline made it.
    audit_log : bool
        Whether it holds the audit log of a registered model.
    models : tuple of str
        Ids of the models it logged.
    needed_until : float
        Until when a command needs it; 0 if no command does.
    """

    run_id: str
    name: str
    status: str
    started: float
    ended: float | None
    ours: bool
    audit_log: bool = False
    baseline: bool = False
    model_name: str | None = None
    models: tuple[str, ...] = ()
    digests: frozenset[str] = frozenset()
    needed_until: float = 0.0


class Folder(FrozenModel):
    """A folder of the cache: when it was last used, the digests of its content, and the run of a checkpoint."""

    what: What
    path: str
    used: float
    digests: frozenset[str] = frozenset()
    run_id: str | None = None


class Inventory(FrozenModel):
    """Everything in the store and the cache at one moment. The key of an audit log is the name of its registered model."""

    runs: tuple[Run, ...] = ()
    versions: tuple[Version, ...] = ()
    audit_logs: dict[str, tuple[AuditEntry, ...]] = Field({})
    folders: tuple[Folder, ...] = ()


def cached_folders() -> Iterator[Folder]:
    """Yield every folder of the cache. A folder that is removed meanwhile is left out."""
    for parent, what in KINDS.items():
        root = storage.cache_folder() / parent
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if folder := read_folder(path, what):
                yield folder


def read_folder(path: Path, what: What) -> Folder | None:
    """Return the record of a folder; None if it does not exist, or is not a folder."""
    if path.is_symlink() or not path.is_dir():
        return None
    name = f"{path.parent.name}/{path.name}"
    if DRAFT.fullmatch(path.name):
        return Folder(what="draft", path=name, used=_last_change(path))
    run_id = path.name if what == "checkpoint" else None
    return Folder(what=what, path=name, used=_last_change(path), digests=_manifest_digests(path), run_id=run_id)


def reread_folder(folder: Folder) -> Folder | None:
    """Return a folder as it is now; None if it is gone."""
    path = storage.cache_folder() / folder.path
    return read_folder(path, KINDS[path.parent.name])


def folder_size(path: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(_stat(file).st_size for file in path.rglob("*") if file.is_file())


def remove_folder(folder: Folder) -> bool:
    """Remove a folder, unless it was used after its record was made. Tell whether it was removed.

    It is renamed first. From then on, other processes do not find it and create it again. If it was used just before the
    renaming, it is put back.
    """
    path = storage.cache_folder() / folder.path
    aside = path if folder.what == "draft" else path.with_name(f".{path.name}-removed{os.getpid()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    if _last_change(aside) > folder.used:
        aside.rename(path)
        return False
    shutil.rmtree(aside)
    return True


def _last_change(path: Path) -> float:
    """Return when a folder was used, or a file in it was written, last. Writing a draft does not touch its folder."""
    return max(_stat(entry).st_mtime for entry in (path, *path.rglob("*")))


def _stat(path: Path) -> os.stat_result:
    """Return the status of a file; zeros if it was removed meanwhile."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return os.stat_result((0,) * 10)


def _manifest_digests(path: Path) -> frozenset[str]:
    """Return the digests in a folder's manifest; none if it cannot be read: no command can use the folder then."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        return frozenset(str(manifest[key]) for key in ("digest", "sha256") if key in manifest)
    except (OSError, ValueError, TypeError):
        return frozenset()


def take_inventory(run_ids: Collection[str] | None = None) -> Inventory:
    """Return the whole inventory; or, given the ids of some runs, only those runs and the runs that protect others.

    Raises
    ------
    AuditLogError, MlflowException
        If the runs, the registry or an audit log cannot be read. What is not read protects nothing, so it is an error.
    """
    client = connect()
    experiments = {
        experiment.experiment_id: experiment
        for experiment in iterate_pages(client.search_experiments, view_type=ViewType.ALL)
    }
    if run_ids is None:
        candidates = list(_search(client, list(experiments)))
        models = _models(client, list(experiments))
    else:
        candidates = _active(client, list(experiments))
        candidates += [run for run_id in run_ids if (run := _find_run(client, run_id))]
        models = _models(client, list(experiments), run_ids)
    runs = {run.info.run_id: run for run in candidates if can_remove(client) or run.info.lifecycle_stage == "active"}
    return Inventory(
        runs=tuple(_run(run, experiments[run.info.experiment_id], models) for run in runs.values()),
        versions=tuple(_versions(client)),
        audit_logs=_audit_logs(client, experiments.values()),
        folders=tuple(cached_folders()) if run_ids is None else (),
    )


def folder_inventory(folder: Folder) -> Inventory:
    """Return a folder as it is now, and everything that can protect it."""
    current = reread_folder(folder)
    state = take_inventory([folder.run_id] if folder.run_id else [])
    return state.model_copy(update={"folders": (current,) if current else ()})


def can_remove(client: MlflowClient) -> bool:
    """Tell whether a run can be removed for good: in a database that this process opens, but not through a server."""
    return hasattr(client._tracking_client.store, "_hard_delete_run")


def _audit_logs(client: MlflowClient, experiments: Iterable[Any]) -> dict[str, tuple[AuditEntry, ...]]:
    audit_logs = {}
    for experiment in experiments:
        if (name := experiment.tags.get(audit_log.AUDIT_LOG_TAG)) is None:
            continue
        audit_logs[name] = audit_log.read_entries(name)
        if not audit_logs[name] and any(run.data.params for run in _search(client, [experiment.experiment_id])):
            raise audit_log.AuditLogError(
                f"experiment {experiment.name!r} holds the audit log of {name}, but its name is another: rename it back"
            )
    return audit_logs


def _search(client: MlflowClient, experiments: list[str], condition: str = "") -> Iterator[Any]:
    if not experiments:
        return
    yield from iterate_pages(client.search_runs, experiments, condition, run_view_type=ViewType.ALL, max_results=PAGE)


def _active(client: MlflowClient, experiments: list[str]) -> list[Any]:
    """Return the active runs, and those that a command needs."""
    conditions = [*(f"attributes.status = '{status}'" for status in ACTIVE), f"tags.`{NEEDED_UNTIL}` LIKE '%'"]
    return [run for condition in conditions for run in _search(client, experiments, condition)]


def _find_run(client: MlflowClient, run_id: str) -> Any:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _models(
    client: MlflowClient, experiments: list[str], run_ids: Collection[str] | None = None
) -> dict[str, list[str]]:
    """Return the ids of the models each run logged."""
    models: dict[str, list[str]] = defaultdict(list)
    conditions: Iterable[str | None] = (
        [None] if run_ids is None else [f"source_run_id = '{run_id}'" for run_id in run_ids]
    )
    for condition in conditions if experiments else ():
        for model in iterate_pages(client.search_logged_models, experiments, condition, max_results=50):
            if model.source_run_id:
                models[model.source_run_id].append(model.model_id)
    return models


def _run(run: Any, experiment: Any, models: dict[str, list[str]]) -> Run:
    tags, info = run.data.tags, run.info
    outputs = run.outputs.model_outputs if run.outputs else []
    return Run(
        run_id=info.run_id,
        name=info.run_name or info.run_id[:8],
        status=info.status,
        started=(info.start_time or 0) / 1000,
        ended=info.end_time / 1000 if info.end_time else None,
        ours="config_digest" in tags or tags.get("kind") == "baseline",
        audit_log=audit_log.AUDIT_LOG_TAG in tags or audit_log.AUDIT_LOG_TAG in experiment.tags,
        baseline=tags.get("kind") == "baseline",
        model_name=run.data.params.get("tracking.model_name"),
        models=tuple(dict.fromkeys([*models.get(info.run_id, ()), *(output.model_id for output in outputs)])),
        digests=_tag_digests(tags) | _input_digests(run),
        needed_until=read_needed_until(tags),
    )


def _tag_digests(tags: dict[str, str]) -> frozenset[str]:
    return frozenset(tags[key] for key in DIGESTS if key in tags)


def _input_digests(run: Any) -> frozenset[str]:
    """Return the digests of the noise of a run's datasets: also of the training set if its noise is frozen."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return frozenset(tag.value for dataset in inputs for tag in dataset.tags if tag.key == "noise")


def _versions(client: MlflowClient) -> Iterator[Version]:
    aliases: dict[tuple[str, str], list[str]] = defaultdict(list)
    for model in iterate_pages(client.search_registered_models, max_results=100):
        for alias, number in model.aliases.items():
            aliases[model.name, str(number)].append(alias)
    for version in iterate_pages(client.search_model_versions, max_results=PAGE):
        key = (version.name, str(version.version))
        yield Version(
            name=key[0],
            number=key[1],
            source=version.source or "",
            run_id=version.run_id or None,
            aliases=tuple(sorted(aliases.pop(key, ()))),
            verdict=version.tags.get("verdict"),
            digests=_tag_digests(version.tags),
        )
    if aliases:  # a version was registered between the two searches, or the registry has lost one
        raise MlflowException(f"the registry changed while it was read, or is damaged: no version for {dict(aliases)}")
