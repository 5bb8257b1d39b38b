"""The audit log: what was promoted, refused, forced and rolled back. It is append-only and lies in MLflow beside the registry.

The audit log is an MLflow run whose parameters are its entries. MLflow never lets a logged parameter change, so an entry stays
as it was written. If two processes write the same number, one of them gets a `Conflict`. So the order of the entries is the
same for every reader, on any store, without a lock. The alias follows the audit log, not the other way round:
`dae.promotion.promote` moves it.
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
"""Names the registered model, on the experiment and on the run. Stored, so it keeps its first name."""
MAX_LENGTHS = {"reason": 2000, "who": 200}
PATIENCE = 10.0
"""Seconds to wait until another process has created the run."""


class AuditLogError(RuntimeError):
    """The audit log cannot be read or written."""


class Conflict(Exception):  # noqa: N818  (the caller handles it: it reads again and decides again)
    """Another process wrote this number first. Read the audit log again, then decide again."""


class AuditLogState(FrozenModel):
    """An audit log at one moment.

    Attributes
    ----------
    entries : tuple of AuditEntry
        In order.
    pending : tuple of AuditEntry
        Those whose aliases and tags may not be written yet.
    run_id : str or None
        The run that holds the entries; None if there is none yet.
    """

    entries: tuple[AuditEntry, ...] = ()
    pending: tuple[AuditEntry, ...] = ()
    run_id: str | None = None


def read_state(name: str) -> AuditLogState:
    """Return the audit log of a registered model as it is now; empty if it has none yet.

    Raises
    ------
    AuditLogError
        If an entry is damaged or missing, or the run that holds the entries was deleted.
    MlflowException
        If the store cannot be read.
    """
    run = _find_run(connect(), name)
    if run is None:
        return AuditLogState()
    entries = _parse_entries(run)
    pending = tuple(entry for entry in entries if _applied_key(entry) not in run.data.params)
    return AuditLogState(entries=entries, pending=pending, run_id=run.info.run_id)


def read_entries(name: str) -> tuple[AuditEntry, ...]:
    """Return the entries of a registered model's audit log in order. It raises what `read_state` raises."""
    return read_state(name).entries


def append_entry(name: str, entries: Sequence[AuditEntry], **fields: Any) -> AuditEntry:
    """Write the entry that follows `entries`, which are the audit log that the decision rests on.

    Raises
    ------
    Conflict
        If another process appended an entry meanwhile.
    """
    client = connect()
    entry = draft_entry(entries, **fields)
    run_id = _find_or_create_run(client, name)
    value = entry.model_dump_json()
    try:
        client.log_param(run_id, _key(entry.number), value)
    except MlflowException:
        # Read again: either another process took the number, or the store failed.
        stored_value = client.get_run(run_id).data.params.get(_key(entry.number))
        if stored_value is None:
            raise
        if stored_value != value:
            raise Conflict from None
    return entry


def draft_entry(entries: Sequence[AuditEntry], **fields: Any) -> AuditEntry:
    """Return the entry that would follow `entries`, without writing it."""
    texts = {key: _one_line(fields.get(key, ""), length) for key, length in MAX_LENGTHS.items()}
    return AuditEntry(number=len(entries) + 1, id=uuid.uuid4().hex, at=datetime.now(UTC), **(fields | texts))


def _one_line(text: str, length: int) -> str:
    """Return a text on one line, cut to a length. MLflow would cut the whole entry at 6,000 characters."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())[:length]


def mark_applied(run_id: str, entry: AuditEntry) -> None:
    """Record in the audit log's run that the aliases and tags agree with an entry."""
    connect().log_param(run_id, _applied_key(entry), "yes")


def _key(number: int) -> str:
    return f"{number:06d}"


def _applied_key(entry: AuditEntry) -> str:
    return f"{_key(entry.number)}.settled"


def _parse_entries(run: Any) -> tuple[AuditEntry, ...]:
    params = {key: value for key, value in run.data.params.items() if key.isdecimal()}
    try:
        entries = tuple(AuditEntry.model_validate_json(params[key]) for key in sorted(params))
    except ValidationError as error:
        raise AuditLogError(f"run {run.info.run_id} must hold the entries of the audit log; found {error}") from error
    if [entry.number for entry in entries] != list(range(1, len(entries) + 1)):
        raise AuditLogError(
            f"run {run.info.run_id} must hold every entry of the audit log; found {', '.join(sorted(params))}"
        )
    return entries


def _experiment_name(name: str) -> str:
    return f"{name} ledger"


def _find_run(client: MlflowClient, name: str) -> Any:
    """Return the run of the audit log, which is the oldest one of its experiment; None if there is none."""
    experiment_name = _experiment_name(name)
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return None
    if experiment.lifecycle_stage == "deleted":
        raise AuditLogError(f"experiment {experiment_name!r} holds the audit log and was deleted: restore it in MLflow")
    runs = client.search_runs(
        [experiment.experiment_id], run_view_type=ViewType.ALL, order_by=["attributes.start_time ASC"], max_results=1
    )
    if not runs:
        return None
    if runs[0].info.lifecycle_stage == "deleted":
        raise AuditLogError(f"run {runs[0].info.run_id} holds the audit log and was deleted: restore it in MLflow")
    return runs[0]


def _find_or_create_run(client: MlflowClient, name: str) -> str:
    """Return the id of the audit log's run."""
    run = _find_run(client, name)
    if run is None:
        _create_run(client, name)
        run = _find_run(client, name)  # two processes may have created one each: the oldest counts
    if run.info.status == "RUNNING":
        client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def _create_run(client: MlflowClient, name: str) -> None:
    """Create the audit log's run. The process that creates the experiment creates the run; the others wait for it."""
    try:
        create_experiment(client, _experiment_name(name), {AUDIT_LOG_TAG: name})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if _find_run(client, name):
                return
            time.sleep(0.2)
    experiment = client.get_experiment_by_name(_experiment_name(name))
    assert experiment is not None
    note = f"Entries of the audit log of {name}, written by dae: `dae models history` shows them. Do not delete."
    tags = {AUDIT_LOG_TAG: name, "mlflow.note.content": note}
    client.create_run(experiment.experiment_id, tags=tags, run_name=f"ledger of {name}")
