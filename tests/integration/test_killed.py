"""Processes killed in the middle of training: nothing recorded is lost, nothing runs for ever, and the next run works."""

from __future__ import annotations

import itertools
import json
import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psutil
import pytest

from .conftest import LONG, Team, flow_run_id, wait

TO_FIVE = ("--set", "train.epochs=5")


def run_of(team: Team, flow_run: str) -> Any:
    (found,) = [each for each in team.runs() if each.data.tags.get("prefect.flow_run_id") == flow_run]
    return found


def epochs(team: Team, run_id: str) -> list[int]:
    return [point.step for point in team.mlflow().get_metric_history(run_id, "val_mse")]


def longest_silence(team: Team, flow_run: str) -> float:
    """Return the most seconds between a run's heartbeats: after some 100 it would be taken for dead."""
    login = ("admin", team.login["PREFECT_API_AUTH_STRING"].partition(":")[2])
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "any_resource": {"id": [f"prefect.flow-run.{flow_run}"]},
        "occurred": {"since": (datetime.now(UTC) - timedelta(hours=1)).isoformat()},
    }
    body = {"filter": wanted, "limit": 50}
    answer = httpx.post(f"{team.prefect_url}/api/events/filter", json=body, auth=login, timeout=30)
    times = sorted(datetime.fromisoformat(each["occurred"]) for each in answer.raise_for_status().json()["events"])
    assert len(times) >= 2, answer.text
    return max((later - earlier).total_seconds() for earlier, later in itertools.pairwise(times))


def terminate(process: psutil.Process) -> None:
    """Tell a process to end; again, since Python loses a signal that falls into a destructor."""
    for _ in range(3):
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        if not psutil.wait_procs([process], timeout=30)[1]:
            return


def aliases(team: Team) -> dict[str, str]:
    models = team.mlflow().search_registered_models()
    return {f"{each.name}@{alias}": str(version) for each in models for alias, version in each.aliases.items()}


def test_a_flow_process_that_is_killed_fails_clearly_is_closed_and_resumes(team: Team) -> None:
    with team.triggered("ci", *LONG) as waiting:
        before = aliases(team)
        team.flow_process().kill()
        said = waiting.communicate(timeout=120)[0]
    assert waiting.returncode == 1, said
    assert "Crashed: Process exited with status code: -9" in said
    flow_run = flow_run_id(waiting.said)  # type: ignore[attr-defined]
    run = run_of(team, flow_run)
    logged = epochs(team, run.info.run_id)
    assert logged[:3] == [1, 2, 3]
    assert f"dae trigger ci --resume {run.info.run_id}" in said

    swept = team.dae("sweep")
    assert (swept.returncode, f"closed {run.info.run_id} (" in swept.stdout) == (0, True), swept
    closed = team.mlflow().get_run(run.info.run_id)
    assert closed.info.status == "KILLED"
    assert "its process is gone" in closed.data.tags["closed_because"]
    assert epochs(team, run.info.run_id) == logged
    assert aliases(team) == before

    with team.triggered("ci", "--resume", run.info.run_id) as resumed:
        wait(lambda: len(epochs(team, run.info.run_id)) > len(logged) + 1, 60)
        terminate(team.flow_process())
        assert "Crashed" in resumed.communicate(timeout=120)[0]
    again = team.mlflow().get_run(run.info.run_id)
    assert again.info.status == "KILLED"
    assert "closed_because" not in again.data.tags
    steps = epochs(team, run.info.run_id)
    assert steps == list(range(1, len(steps) + 1))  # each epoch once, none missing
    assert aliases(team) == before


def test_a_flow_process_that_is_terminated_says_so_everywhere(team: Team) -> None:
    with team.triggered("ci", *LONG) as waiting:
        terminate(team.flow_process())
        said = waiting.communicate(timeout=120)[0]
    assert waiting.returncode == 1, said
    run = run_of(team, flow_run_id(waiting.said))  # type: ignore[attr-defined]
    assert run.info.status == "KILLED"
    assert epochs(team, run.info.run_id)[:3] == [1, 2, 3]
    assert team.flow_run(run.data.tags["prefect.flow_run_id"]).state_name == "Crashed"
    assert team.dae("sweep").stdout == "sweep: 0 closed, 0 running\n"


def test_a_run_outlives_its_worker_that_is_killed(team: Team) -> None:
    with team.triggered("ci", "--set", "train.epochs=120") as waiting:
        worker, flow = team.worker(), team.flow_process()
        worker.kill()
        wait(lambda: team.processes("worker", "--pool") and team.worker().pid != worker.pid, 60)
        assert flow.is_running()
        assert "0 closed, 1 running" in team.dae("sweep").stdout  # the sweeper leaves alone what lives
        said = waiting.communicate(timeout=600)[0]
    assert waiting.returncode == 0, said
    run = run_of(team, flow_run_id(waiting.said))  # type: ignore[attr-defined]
    assert (run.info.status, epochs(team, run.info.run_id)) == ("FINISHED", list(range(1, 121)))
    assert team.champion("dae-smoke") == run.data.tags["model_version"]
    assert longest_silence(team, flow_run_id(waiting.said)) < 45  # type: ignore[attr-defined]


def test_a_worker_that_is_terminated_takes_its_run_along_and_the_sweeper_closes_it(team: Team) -> None:
    with team.triggered("ci", *LONG) as waiting:
        before = aliases(team)
        flow = team.flow_process()
        team.worker().send_signal(signal.SIGTERM)
        psutil.wait_procs([flow], timeout=60)
        team.wait_for_worker()
        flow_run = flow_run_id(waiting.said)  # type: ignore[attr-defined]
        assert team.dae("sweep").returncode == 0
        said = waiting.communicate(timeout=60)[0]
    assert waiting.returncode in (1, 3), said
    run = run_of(team, flow_run)
    assert run.info.status == "KILLED"
    assert epochs(team, run.info.run_id)[:3] == [1, 2, 3]
    assert team.flow_run(flow_run).state.is_final()  # type: ignore[union-attr]
    assert aliases(team) == before
    done = team.dae("trigger", "ci", *TO_FIVE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_worker_and_flow_killed_together_are_noticed_by_the_silence(team: Team) -> None:
    """As when a machine goes away: nobody is left to report anything, but the server."""
    with team.triggered("ci", *LONG) as waiting:
        flow, worker = team.flow_process(), team.worker()
        for process in (flow, worker):
            process.suspend()
        for process in (flow, worker):
            process.kill()
        said = waiting.communicate(timeout=300)[0]
    assert waiting.returncode == 1, said
    assert "no sign of life" in said
    run = run_of(team, flow_run_id(waiting.said))  # type: ignore[attr-defined]
    team.wait_for_worker()
    swept = team.dae("trigger", "sweep")  # as its schedule would
    assert (swept.returncode, f"closed {run.info.run_id} (" in swept.stdout) == (0, True), swept
    assert team.mlflow().get_run(run.info.run_id).info.status == "KILLED"
    assert epochs(team, run.info.run_id)[:3] == [1, 2, 3]
    done = team.dae("trigger", "ci", *TO_FIVE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_services_down_ends_what_runs_and_nothing_is_left_running(team: Team) -> None:
    with team.triggered("ci", *LONG) as waiting:
        flow_run = flow_run_id(waiting.said)  # type: ignore[attr-defined]
        down = team.dae("services", "down", anonymous=True)
        assert down.returncode == 0, down.stderr
        assert team.processes() == []
        waiting.kill()
    up = team.dae("services", "up", anonymous=True)
    assert up.returncode == 0, up.stderr
    run = run_of(team, flow_run)
    assert run.info.status == "KILLED"
    assert epochs(team, run.info.run_id)[:3] == [1, 2, 3]
    assert team.flow_run(flow_run).state_name == "Crashed"


@pytest.mark.parametrize("moment", ["registered", "tried"])
def test_a_promotion_that_is_killed_leaves_no_half_registered_champion(team: Team, moment: str) -> None:
    """Killed once the version was made, or while it is tried in a clean process."""
    assert team.dae("trigger", "ci", *TO_FIVE).returncode == 0
    known, live = versions(team), team.champion("dae-smoke")
    with team.triggered("ci", *TO_FIVE) as waiting:
        (made,) = wait(lambda: versions(team) - known, 120)
        if moment == "tried":
            wait(lambda: team.processes("dae.trial"), 60)
        team.flow_process().kill()
        said = waiting.communicate(timeout=120)[0]
    assert waiting.returncode == 1, said
    assert team.champion("dae-smoke") == live
    ledger = json.loads(team.dae("models", "history", "--name", "dae-smoke", "--json").stdout)
    assert made not in {entry["version"] for entry in ledger}
    assert live == next(entry["version"] for entry in reversed(ledger) if entry["event"] in ("promoted", "forced"))
    half = team.mlflow().get_model_version("dae-smoke", made)  # whole, and not judged
    assert (half.status, half.tags["verdict"]) == ("READY", "pending")
    assert set(half.aliases) <= {"challenger"}

    assert team.dae("sweep").returncode == 0
    done = team.dae("trigger", "ci", *TO_FIVE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert team.champion("dae-smoke") not in (made, live)
    assert team.mlflow().get_model_version("dae-smoke", made).aliases == []
    assert not [run for run in team.runs() if run.info.status == "RUNNING"]


def versions(team: Team) -> set[str]:
    return {str(each.version) for each in team.mlflow().search_model_versions("name='dae-smoke'")}
