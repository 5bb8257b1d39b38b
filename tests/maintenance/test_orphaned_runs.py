"""Runs that nothing works on any more: told from those that go on, closed with the reason, in MLflow and in Prefect."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Crashed, Failed, Running
from typer.testing import CliRunner

from dae.cli import app
from dae.config.schema import PipelineConfig, TrackingConfig
from dae.maintenance import orphaned_runs
from dae.tracking import provenance
from dae.tracking.client import FLOW_RUN, PROCESS, connect, experiment_id
from dae.tracking.run_logging import log_metrics
from dae.tracking.runs import open_run, read_resumable_config
from flows.close_orphaned_runs import close_orphaned_runs

ELSEWHERE = json.dumps({"host": "elsewhere.example", "pid": 1, "began": 1.0})
TELL = "from dae.tracking import provenance; print(provenance.describe_process(), flush=True)"


@pytest.fixture(scope="module")
def ended() -> str:
    """What a process said of itself that has ended."""
    return subprocess.run([sys.executable, "-c", TELL], capture_output=True, text=True, check=True).stdout


# Processes


def test_this_process_runs() -> None:
    assert provenance.is_running(provenance.describe_process()) is True


def test_a_process_that_has_ended_does_not_run(ended: str) -> None:
    assert provenance.is_running(ended) is False


def test_a_process_that_runs_is_seen_from_another_and_one_that_nobody_waited_for_is_not() -> None:
    script = f"{TELL}; input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        told = child.stdout.readline().decode()
        assert provenance.is_running(told) is True
        child.stdin.write(b"\n")
        child.stdin.flush()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is kept as a zombie
        assert provenance.is_running(told) is False


def test_another_process_of_the_same_number_is_not_taken_for_it() -> None:
    said = json.loads(provenance.describe_process())
    assert provenance.is_running(json.dumps(said | {"began": said["began"] - 60})) is False


def test_of_another_machine_nothing_is_known() -> None:
    said = json.loads(provenance.describe_process())
    assert provenance.is_running(json.dumps(said | {"host": "elsewhere.example"})) is None


@pytest.mark.parametrize(
    "told",
    ["", "x", "null", "[]", '"text"', "7", "{}", json.dumps({"host": socket.gethostname(), "pid": "x", "began": 1})],
)
def test_what_is_no_process_is_not_known(told: str) -> None:
    assert provenance.is_running(told) is None


# Closing


def made(flow_run_id: str | None, process: str | None = None, name: str = "mnist") -> str:
    """Make a run as a training leaves it when it is killed, and return its id."""
    client = connect()
    tags = {FLOW_RUN: flow_run_id, PROCESS: process}
    said = {key: value for key, value in tags.items() if value is not None}
    created = client.create_run(experiment_id(client, "denoising"), tags=said, run_name=name)
    return str(created.info.run_id)


def status(run_id: str) -> tuple[str, str | None]:
    """Return a run's state, and why it was closed."""
    run = connect().get_run(run_id)
    return run.info.status, run.data.tags.get("closed_because")


@pytest.mark.usefixtures("mlflow_store")
def test_a_new_store_has_no_running_runs() -> None:
    assert orphaned_runs.find_running() == []


@pytest.mark.usefixtures("mlflow_store")
def test_running_runs_are_found_with_what_is_known_of_their_process(ended: str) -> None:
    here, gone, unseen = (
        made("a", provenance.describe_process(), "here"),
        made("b", ended, "gone"),
        made("c", name="unseen"),
    )
    over = made("d", ended)
    connect().set_terminated(over, "FAILED")
    made(None, ended)  # of somebody who works with MLflow beside the pipeline
    assert {run.run_id: (run.name, run.flow_run_id, run.alive) for run in orphaned_runs.find_running()} == {
        here: ("here", "a", True),
        gone: ("gone", "b", False),
        unseen: ("unseen", "c", None),
    }


@pytest.mark.usefixtures("mlflow_store")
def test_a_run_that_ended_or_was_resumed_meanwhile_is_left_alone(ended: str) -> None:
    client, finished, resumed = connect(), made("a", ended), made("b", ended)
    found = {run.run_id: run for run in orphaned_runs.find_running()}
    client.set_terminated(finished, "FINISHED")
    client.set_tag(resumed, FLOW_RUN, "another")
    assert [orphaned_runs.close_run(found[run_id], "gone") for run_id in (finished, resumed)] == [False, False]
    assert [status(run_id) for run_id in (finished, resumed)] == [("FINISHED", None), ("RUNNING", None)]
    never = orphaned_runs.RunningRun(run_id="0" * 32, name="never", flow_run_id="a", alive=False)
    assert orphaned_runs.close_run(never, "gone") is False


@pytest.mark.usefixtures("mlflow_store")
def test_a_run_that_was_closed_keeps_what_it_has_and_can_be_resumed(ended: str) -> None:
    config = PipelineConfig()
    with open_run(config, "killed") as run_id:
        log_metrics(run_id, {"val_mse": 0.5})
    client = connect()
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, PROCESS, ended)
    (found,) = orphaned_runs.find_running()
    assert orphaned_runs.close_run(found, "its process is gone")
    assert status(run_id) == ("KILLED", "its process is gone")
    assert client.get_run(run_id).data.metrics["val_mse"] == 0.5
    assert read_resumable_config(run_id[:8]).tracking.resume == run_id
    resumed = config.model_copy(update={"tracking": TrackingConfig(resume=run_id)})
    with open_run(resumed, "again"):
        assert [run.alive for run in orphaned_runs.find_running()] == [True]
        assert status(run_id) == ("RUNNING", None)


# The sweeper


@flow(name="of-a-test")
def nothing() -> None:
    """Never run: its flow runs are made on the server."""


def flow_run(state: State[Any] | None = None) -> str:
    """Make a flow run on the server and return its id."""
    with get_client(sync_client=True) as client:
        made = client.create_flow_run(nothing)
        client.set_flow_run_state(made.id, state or Running(), force=True)
        return str(made.id)


def state_of(flow_run_id: str) -> State[Any]:
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(UUID(flow_run_id)).state
    assert found is not None
    return found


GONE = "its process is gone from this machine"
CASES: dict[str, tuple[Callable[[str], str | None], Callable[[], str], str | None]] = {
    "its process works on it": (lambda _: provenance.describe_process(), flow_run, None),
    "its process works on it, whatever the server says": (
        lambda _: provenance.describe_process(),
        lambda: flow_run(Crashed(message="no heartbeat")),
        None,
    ),
    "killed": (str, flow_run, GONE),
    "killed, of another server": (str, lambda: str(uuid.uuid4()), GONE),
    "killed, of no server": (str, lambda: "none", GONE),
    "elsewhere": (lambda _: ELSEWHERE, flow_run, None),
    "elsewhere, of another server": (lambda _: ELSEWHERE, lambda: str(uuid.uuid4()), None),
    "elsewhere, failed": (lambda _: ELSEWHERE, lambda: flow_run(Failed(message="boom")), "ended as Failed: boom"),
    "elsewhere, cancelled": (lambda _: ELSEWHERE, lambda: flow_run(Cancelled()), "ended as Cancelled"),
    "unknown process, over": (lambda _: None, lambda: flow_run(Completed()), "ended as Completed"),
    "unknown process, going on": (lambda _: None, flow_run, None),
}


@pytest.mark.usefixtures("prefect_server", "mlflow_store")
def test_only_what_nothing_works_on_is_swept_and_a_dry_run_changes_nothing(ended: str) -> None:
    flow_runs = {name: make() for name, (_, make, _) in CASES.items()}
    before = {name: state_of(each).type for name, each in flow_runs.items() if "server" not in name}
    runs = {name: made(flow_runs[name], process(ended), name) for name, (process, _, _) in CASES.items()}
    wanted = {runs[name]: reason for name, (_, _, reason) in CASES.items() if reason}

    dry = close_orphaned_runs(dry_run=True)
    assert dry.closed.keys() == wanted.keys()
    assert {status(run_id) for run_id in runs.values()} == {("RUNNING", None)}
    assert {name: state_of(flow_runs[name]).type for name in before} == before

    done = close_orphaned_runs()
    assert done.closed == dry.closed
    for run_id, reason in done.closed.items():
        assert reason.endswith(wanted[run_id])
        assert status(run_id) == ("KILLED", reason)
    assert set(done.left) == set(runs.values()) - wanted.keys()
    assert {status(run_id) for run_id in done.left} == {("RUNNING", None)}
    killed = state_of(flow_runs["killed"])
    assert (killed.name, killed.message) == ("Crashed", f"Swept: {GONE}.")
    assert {name: state_of(flow_runs[name]).type for name in before if name != "killed"} == {
        name: each for name, each in before.items() if name != "killed"
    }

    again = close_orphaned_runs()
    assert (again.closed, set(again.left)) == ({}, set(done.left))


@pytest.mark.usefixtures("prefect_server", "mlflow_store")
def test_the_command_says_what_it_closes_and_counts_what_goes_on(ended: str, caplog: pytest.LogCaptureFixture) -> None:
    gone = made("none", ended, "lost")
    made("none", provenance.describe_process())
    for arguments, wanted in (
        (["--dry-run"], [f"sweep: would close {gone} (lost): {GONE}", "sweep: 1 to close, 1 running"]),
        ([], [f"sweep: closed {gone} (lost): {GONE}", "sweep: 1 closed, 1 running"]),
        ([], ["sweep: 0 closed, 1 running"]),
    ):
        caplog.clear()
        done = CliRunner().invoke(app, ["sweep", *arguments])
        assert (done.exit_code, done.stderr) == (0, "")
        assert [each.getMessage() for each in caplog.records if each.name == "dae.sweep"] == wanted
