"""The ledger on a real MLflow store: in order, append-only, written by several at once."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from dae import ledger, tracking
from dae.history import Entry

pytestmark = pytest.mark.usefixtures("mlflow_store")
FIELDS: dict[str, Any] = {"event": "promoted", "version": "1", "champion": "1", "who": "someone"}


def ledger_run() -> Any:
    client = tracking.connect()
    experiment = client.get_experiment_by_name("dae ledger")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_a_model_without_a_ledger_has_no_entries_and_reading_makes_none() -> None:
    assert ledger.state("dae") == ledger.State()
    assert tracking.connect().get_experiment_by_name("dae ledger") is None


def test_entries_read_back_as_they_were_written_and_in_order() -> None:
    written: tuple[Entry, ...] = ()
    for number in range(1, 13):
        written += (ledger.append("dae", written, **FIELDS | {"version": str(number), "reason": 'for "this" – ü'}),)
    assert ledger.read("dae") == written
    assert [entry.number for entry in written] == list(range(1, 13))
    assert ledger.read("other") == ()


def test_an_entry_decided_on_an_older_ledger_is_not_written() -> None:
    first = ledger.append("dae", (), **FIELDS)
    with pytest.raises(ledger.Taken):
        ledger.append("dae", (), **FIELDS | {"version": "2"})
    assert ledger.read("dae") == (first,)


def test_an_entry_cannot_be_changed() -> None:
    entry = ledger.append("dae", (), **FIELDS)
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        tracking.connect().log_param(ledger_run().info.run_id, "000001", "another")
    assert ledger.read("dae") == (entry,)


def test_a_long_reason_is_cut_and_the_entry_stays_whole() -> None:
    entry = ledger.append("dae", (), **FIELDS | {"reason": '"\\\n' * 5000, "who": "w" * 5000})
    assert ledger.read("dae") == (entry,)
    assert len(entry.reason) == 2000


def test_entries_are_settled_one_by_one() -> None:
    first = ledger.append("dae", (), **FIELDS)
    second = ledger.append("dae", (first,), **FIELDS)
    assert ledger.state("dae").unsettled == (first, second)
    ledger.settle("dae", first)
    ledger.settle("dae", first)
    assert ledger.state("dae").unsettled == (second,)


def test_a_ledger_that_was_deleted_or_damaged_is_an_error_and_not_an_empty_one() -> None:
    ledger.append("dae", (), **FIELDS)
    client = tracking.connect()
    run = ledger_run()
    client.log_param(run.info.run_id, "000003", "{}")
    with pytest.raises(ledger.LedgerError, match="must hold the ledger's entries"):
        ledger.read("dae")
    client.delete_run(run.info.run_id)
    with pytest.raises(ledger.LedgerError, match="was deleted: restore it"):
        ledger.read("dae")
    client.restore_run(run.info.run_id)
    client.delete_experiment(run.info.experiment_id)
    with pytest.raises(ledger.LedgerError, match="was deleted: restore it"):
        ledger.append("dae", (), **FIELDS)


def test_a_missing_entry_is_an_error() -> None:
    first = ledger.append("dae", (), **FIELDS)
    third = ledger.draft((first, first), **FIELDS)
    tracking.connect().log_param(ledger_run().info.run_id, "000003", third.model_dump_json())
    with pytest.raises(ledger.LedgerError, match="every entry"):
        ledger.read("dae")


def test_two_runs_made_at_once_hold_one_ledger() -> None:
    client = tracking.connect()
    experiment = tracking.create_experiment(client, "dae ledger")
    oldest = client.create_run(experiment, start_time=1).info.run_id
    client.create_run(experiment, start_time=2)
    first = ledger.append("dae", (), **FIELDS)
    assert ledger.read("dae") == (first,)
    assert client.get_run(oldest).info.status == "FINISHED"
    assert "000001" in client.get_run(oldest).data.params


WRITER = """
import sys
from dae import backend, ledger
backend.configure()
for number in range(8):
    while True:
        entries = ledger.read("dae")
        try:
            ledger.append("dae", entries, event="refused", version=f"{sys.argv[1]}.{number}", champion=None, who="w")
            break
        except ledger.Taken:
            continue
"""


@pytest.mark.slow
def test_several_processes_write_one_ledger_and_lose_nothing() -> None:
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, str(number)], env=os.environ) for number in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    found = [str(entry.version) for entry in ledger.read("dae")]
    assert sorted(found) == [f"{writer}.{number}" for writer in range(3) for number in range(8)]
    for writer in "012":  # each one's own entries are in its order
        assert [each for each in found if each.startswith(writer)] == [f"{writer}.{number}" for number in range(8)]
