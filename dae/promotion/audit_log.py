"""The ledger: what was promoted, refused, forced and rolled back, kept in MLflow beside the registry, append-only.

It is a run whose parameters are its entries. MLflow never lets a parameter be changed once it is logged, so an entry stays as
it was written, and of two processes that write the same place one is told so: the order of the entries is the same for all,
on any store, without a lock. The alias follows the ledger, not the other way round; `dae.promotion.promote` sees to that.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from dae.promotion.history import AuditEntry
from dae.schemas import FrozenModel
from dae.tracking.client import connect, create_experiment

AUDIT_LOG_TAG = "dae.ledger"
LENGTHS = {"reason": 2000, "who": 200}
PATIENCE = 10.0


class AuditLogError(RuntimeError):
    """The ledger cannot be read or written."""


class Conflict(Exception):  # noqa: N818  (an answer, not an error)
    """Another process wrote the place first: look again before deciding."""


class AuditLogState(FrozenModel):
    """A ledger at one moment: its entries, and those of them whose aliases and tags may not have been written."""

    entries: tuple[AuditEntry, ...] = ()
    unsettled: tuple[AuditEntry, ...] = ()


def read_state(name: str) -> AuditLogState:
    """Return a registered model's ledger as it is; empty if it has none yet.

    Raises
    ------
    LedgerError
        If an entry is not one, or the run that holds them was deleted.
    MlflowException
        If the store cannot be read.
    """
    run = _find(connect(), name)
    if run is None:
        return AuditLogState()
    entries = _entries(run)
    open_ = tuple(entry for entry in entries if f"{_key(entry.number)}.settled" not in run.data.params)
    return AuditLogState(entries=entries, unsettled=open_)


def read_entries(name: str) -> tuple[AuditEntry, ...]:
    """Return the entries of a registered model's ledger in order, as `read_state` does."""
    return read_state(name).entries


def append_entry(name: str, entries: Sequence[AuditEntry], **fields: Any) -> AuditEntry:
    """Write the entry that comes after `entries`, the ledger as it was when it was decided.

    Raises
    ------
    Taken
        If the ledger has gone on meanwhile.
    """
    client = connect()
    entry = draft_entry(entries, **fields)
    run_id = _run_id(client, name)
    value = entry.model_dump_json()
    try:
        client.log_param(run_id, _key(entry.number), value)
    except MlflowException:
        written = client.get_run(run_id).data.params.get(_key(entry.number))
        if written is None:
            raise
        if written != value:
            raise Conflict from None
    return entry


def draft_entry(entries: Sequence[AuditEntry], **fields: Any) -> AuditEntry:
    """Return the entry that would come after `entries`, not written."""
    texts = {key: _plain(fields.get(key, ""), length) for key, length in LENGTHS.items()}
    return AuditEntry(number=len(entries) + 1, id=uuid.uuid4().hex, at=datetime.now(UTC), **(fields | texts))


def _plain(text: str, length: int) -> str:
    """Return a text on one line, cut to a length: MLflow would cut the whole entry at 6,000 characters."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())[:length]


def mark_applied(name: str, entry: AuditEntry) -> None:
    """Note that the aliases and tags say what an entry says."""
    client = connect()
    run = _find(client, name)
    assert run is not None
    client.log_param(run.info.run_id, f"{_key(entry.number)}.settled", "yes")


def _key(number: int) -> str:
    return f"{number:06d}"


def _entries(run: Any) -> tuple[AuditEntry, ...]:
    written = {key: value for key, value in run.data.params.items() if key.isdecimal()}
    try:
        entries = tuple(AuditEntry.model_validate_json(written[key]) for key in sorted(written))
    except ValidationError as error:
        raise AuditLogError(f"run {run.info.run_id} must hold the ledger's entries; found {error}") from error
    if [entry.number for entry in entries] != list(range(1, len(entries) + 1)):
        raise AuditLogError(
            f"run {run.info.run_id} must hold every entry of the ledger; found {', '.join(sorted(written))}"
        )
    return entries


def _experiment(name: str) -> str:
    return f"{name} ledger"


def _find(client: MlflowClient, name: str) -> Any:
    """Return the ledger's run: the oldest one of its experiment."""
    experiment = client.get_experiment_by_name(_experiment(name))
    if experiment is None:
        return None
    if experiment.lifecycle_stage == "deleted":
        raise AuditLogError(f"experiment {_experiment(name)!r} holds the ledger and was deleted: restore it in MLflow")
    runs = client.search_runs(
        [experiment.experiment_id], run_view_type=ViewType.ALL, order_by=["attributes.start_time ASC"], max_results=1
    )
    if not runs:
        return None
    if runs[0].info.lifecycle_stage == "deleted":
        raise AuditLogError(f"run {runs[0].info.run_id} holds the ledger and was deleted: restore it in MLflow")
    return client.get_run(runs[0].info.run_id)


def _run_id(client: MlflowClient, name: str) -> str:
    """Return the id of the ledger's run, made if missing; asked for again then, since two may have been made at once."""
    run = _find(client, name)
    if run is None:
        _create(client, name)
        run = _find(client, name)
    if run.info.status == "RUNNING":
        client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def _create(client: MlflowClient, name: str) -> None:
    """Make the ledger's run. The one process that makes the experiment makes the run, and the others wait for it."""
    try:
        create_experiment(client, _experiment(name), {AUDIT_LOG_TAG: name})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if _find(client, name):
                return
            time.sleep(0.2)
    experiment = client.get_experiment_by_name(_experiment(name))
    assert experiment is not None
    note = f"Entries of the ledger of {name}, written by dae: `dae models history` shows them. Do not delete."
    tags = {AUDIT_LOG_TAG: name, "mlflow.note.content": note}
    client.create_run(experiment.experiment_id, tags=tags, run_name=f"ledger of {name}")
