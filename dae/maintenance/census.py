"""The census: all the runs, versions, ledgers and cached folders there are, as `dae.maintenance.inventory` has them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from dae.maintenance import cache
from dae.maintenance.inventory import ACTIVE, Folder, Run, State, Version
from dae.promotion import audit_log
from dae.promotion.history import Entry
from dae.tracking.client import connect

NEEDED = "dae.needed_until"
DIGESTS = ("data_digest", "noise_digest.validation", "noise_digest.test")
PAGE = 1000


def take(run_ids: Collection[str] | None = None) -> State:
    """Return all there is; given the ids of some runs, of the runs those and what protects other things.

    Raises
    ------
    LedgerError, MlflowException
        If the runs, the registry or a ledger cannot be read. What cannot be read protects nothing, so it is an error.
    """
    client = connect()
    experiments = {each.experiment_id: each for each in _pages(client.search_experiments, view_type=ViewType.ALL)}
    if run_ids is None:
        found = list(_search(client, list(experiments)))
        models = _models(client, list(experiments))
    else:
        found = _active(client, list(experiments)) + [run for each in run_ids if (run := _get(client, each))]
        models = _models(client, list(experiments), run_ids)
    runs = {run.info.run_id: run for run in found if can_remove(client) or run.info.lifecycle_stage == "active"}
    return State(
        runs=tuple(_run(run, experiments[run.info.experiment_id], models) for run in runs.values()),
        versions=tuple(_versions(client)),
        ledgers=_ledgers(client, experiments.values()),
        folders=tuple(cache.folders()) if run_ids is None else (),
    )


def around(folder: Folder) -> State:
    """Return a folder as it is now, and all that bears on whether it may go."""
    now = cache.again(folder)
    state = take([folder.run_id] if folder.run_id else [])
    return state.model_copy(update={"folders": (now,) if now else ()})


def can_remove(client: MlflowClient) -> bool:
    """Tell whether a run can be removed for good: in a database of one's own, not through a server."""
    return hasattr(client._tracking_client.store, "_hard_delete_run")


def keep(run_id: str, hours: float) -> None:
    """Say that a run that has ended is needed for so long, so that ``dae gc`` leaves it alone.

    Of a run that is gone nothing is said, nor by somebody who may only read.
    """
    client = connect()
    until = time.time() + hours * 3600
    found = _get(client, run_id)
    if found is not None and found.info.lifecycle_stage == "active" and until > _number(found.data.tags.get(NEEDED)):
        try:
            client.set_tag(run_id, NEEDED, f"{until:.0f}")
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise


def _ledgers(client: MlflowClient, experiments: Iterable[Any]) -> dict[str, tuple[Entry, ...]]:
    found = {}
    for each in experiments:
        if (name := each.tags.get(audit_log.LEDGER_TAG)) is None:
            continue
        found[name] = audit_log.read(name)
        if not found[name] and any(run.data.params for run in _search(client, [each.experiment_id])):
            raise audit_log.LedgerError(
                f"experiment {each.name!r} holds the ledger of {name}, which is not found there"
            )
    return found


def _pages(search: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = search(*args, **kwargs, page_token=token)
        yield from page
        token = page.token or None
        if token is None:
            return


def _search(client: MlflowClient, experiments: list[str], condition: str = "") -> Iterator[Any]:
    if not experiments:
        return
    yield from _pages(client.search_runs, experiments, condition, run_view_type=ViewType.ALL, max_results=PAGE)


def _active(client: MlflowClient, experiments: list[str]) -> list[Any]:
    """Return the runs that are under way, and those that a command needs."""
    conditions = [*(f"attributes.status = '{status}'" for status in ACTIVE), f"tags.`{NEEDED}` LIKE '%'"]
    return [run for condition in conditions for run in _search(client, experiments, condition)]


def _get(client: MlflowClient, run_id: str) -> Any:
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
    found: dict[str, list[str]] = defaultdict(list)
    conditions: Iterable[str | None] = [None] if run_ids is None else [f"source_run_id = '{each}'" for each in run_ids]
    for condition in conditions if experiments else ():
        for model in _pages(client.search_logged_models, experiments, condition, max_results=50):
            if model.source_run_id:
                found[model.source_run_id].append(model.model_id)
    return found


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
        ledger=audit_log.LEDGER_TAG in tags or audit_log.LEDGER_TAG in experiment.tags,
        baseline=tags.get("kind") == "baseline",
        model_name=run.data.params.get("tracking.model_name"),
        models=tuple(dict.fromkeys([*models.get(info.run_id, ()), *(each.model_id for each in outputs)])),
        digests=_digests(tags) | _input_digests(run),
        needed_until=_number(tags.get(NEEDED)),
    )


def _digests(tags: dict[str, str]) -> frozenset[str]:
    return frozenset(tags[key] for key in DIGESTS if key in tags)


def _input_digests(run: Any) -> frozenset[str]:
    """Return the digests of the noise a run was given, that of its training images included where it is frozen."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return frozenset(tag.value for each in inputs for tag in each.tags if tag.key == "noise")


def _versions(client: MlflowClient) -> Iterator[Version]:
    aliases: dict[tuple[str, str], list[str]] = defaultdict(list)
    for model in _pages(client.search_registered_models, max_results=100):
        for alias, number in model.aliases.items():
            aliases[model.name, str(number)].append(alias)
    for found in _pages(client.search_model_versions, max_results=PAGE):
        key = (found.name, str(found.version))
        yield Version(
            name=key[0],
            number=key[1],
            source=found.source or "",
            run_id=found.run_id or None,
            aliases=tuple(sorted(aliases.pop(key, ()))),
            verdict=found.tags.get("verdict"),
            digests=_digests(found.tags),
        )
    if aliases:  # a version registered and named between the two questions, or one that the registry lost
        raise MlflowException(f"the registry changed while it was read, or is damaged: no version for {dict(aliases)}")


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
