"""The audit log on a real MLflow store: in order, append-only, written by several at once."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from dae.promotion import audit_log
from dae.promotion.history import AuditEntry
from dae.tracking.client import connect, create_experiment

pytestmark = pytest.mark.usefixtures("mlflow_store")
FIELDS: dict[str, Any] = {"event": "promoted", "version": "1", "champion": "1", "who": "someone"}


def audit_log_run() -> Any:
    client = connect()
    experiment = client.get_experiment_by_name("dae ledger")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_a_model_without_an_audit_log_has_no_entries_and_reading_makes_none() -> None:
    assert audit_log.read_state("dae") == audit_log.AuditLogState()
    assert connect().get_experiment_by_name("dae ledger") is None


def test_entries_read_back_as_they_were_written_and_in_order() -> None:
    written: tuple[AuditEntry, ...] = ()
    for number in range(1, 13):
        written += (
            audit_log.append_entry("dae", written, **FIELDS | {"version": str(number), "reason": 'for "this" – ü'}),
        )
    assert audit_log.read_entries("dae") == written
    assert [entry.number for entry in written] == list(range(1, 13))
    assert audit_log.read_entries("other") == ()


def test_an_entry_decided_on_an_older_audit_log_is_not_written() -> None:
    first = audit_log.append_entry("dae", (), **FIELDS)
    with pytest.raises(audit_log.Conflict):
        audit_log.append_entry("dae", (), **FIELDS | {"version": "2"})
    assert audit_log.read_entries("dae") == (first,)


def test_an_entry_cannot_be_changed() -> None:
    entry = audit_log.append_entry("dae", (), **FIELDS)
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        connect().log_param(audit_log_run().info.run_id, "000001", "another")
    assert audit_log.read_entries("dae") == (entry,)


def test_a_long_reason_is_cut_and_the_entry_stays_whole() -> None:
    entry = audit_log.append_entry("dae", (), **FIELDS | {"reason": '"\\\n' * 5000, "who": "w" * 5000})
    assert audit_log.read_entries("dae") == (entry,)
    assert len(entry.reason) == 2000


def test_entries_are_applied_one_by_one() -> None:
    first = audit_log.append_entry("dae", (), **FIELDS)
    second = audit_log.append_entry("dae", (first,), **FIELDS)
    assert audit_log.read_state("dae").pending == (first, second)
    run_id = audit_log_run().info.run_id
    for _ in range(2):
        audit_log.mark_applied(run_id, first)
    assert audit_log.read_state("dae").pending == (second,)


def test_an_audit_log_that_was_deleted_or_damaged_is_an_error_and_not_an_empty_one() -> None:
    audit_log.append_entry("dae", (), **FIELDS)
    client = connect()
    run = audit_log_run()
    client.log_param(run.info.run_id, "000003", "{}")
    with pytest.raises(audit_log.AuditLogError, match="must hold the entries of the audit log"):
        audit_log.read_entries("dae")
    client.delete_run(run.info.run_id)
    with pytest.raises(audit_log.AuditLogError, match="was deleted: restore it"):
        audit_log.read_entries("dae")
    client.restore_run(run.info.run_id)
    client.delete_experiment(run.info.experiment_id)
    with pytest.raises(audit_log.AuditLogError, match="was deleted: restore it"):
        audit_log.append_entry("dae", (), **FIELDS)


def test_a_missing_entry_is_an_error() -> None:
    first = audit_log.append_entry("dae", (), **FIELDS)
    third = audit_log.draft_entry((first, first), **FIELDS)
    connect().log_param(audit_log_run().info.run_id, "000003", third.model_dump_json())
    with pytest.raises(audit_log.AuditLogError, match="every entry"):
        audit_log.read_entries("dae")


def test_two_runs_made_at_once_hold_one_audit_log() -> None:
    client = connect()
    experiment = create_experiment(client, "dae ledger")
    oldest = client.create_run(experiment, start_time=1).info.run_id
    client.create_run(experiment, start_time=2)
    first = audit_log.append_entry("dae", (), **FIELDS)
    assert audit_log.read_entries("dae") == (first,)
    assert client.get_run(oldest).info.status == "FINISHED"
    assert "000001" in client.get_run(oldest).data.params


WRITER = """
import sys
from dae import runtime
from dae.promotion import audit_log
runtime.configure()
for number in range(8):
    while True:
        entries = audit_log.read_entries("dae")
        try:
            audit_log.append_entry("dae", entries, event="refused", version=f"{sys.argv[1]}.{number}", champion=None, who="w")
            break
        except audit_log.Conflict:
            continue
"""


@pytest.mark.slow
def test_several_processes_write_one_audit_log_and_lose_nothing() -> None:
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, str(number)], env=os.environ) for number in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    found = [str(entry.version) for entry in audit_log.read_entries("dae")]
    assert sorted(found) == [f"{writer}.{number}" for writer in range(3) for number in range(8)]
    for writer in "012":  # each one's own entries are in its order
        assert [each for each in found if each.startswith(writer)] == [f"{writer}.{number}" for number in range(8)]
