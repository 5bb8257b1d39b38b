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
from prefect.events.schemas.automations import AutomationCore

from .conftest import LONG, UNTRIED, Promoted, Team, wait


def run_of(team: Team, flow_run: str) -> Any:
    (found,) = [each for each in team.runs() if each.data.tags.get("prefect.flow_run_id") == flow_run]
    return found


def epochs(team: Team, run_id: str) -> list[int]:
    return [point.step for point in team.mlflow().get_metric_history(run_id, "val_mse")]


def longest_silence(team: Team, flow_run: str) -> float:
    """Return the most seconds without a run's heartbeat until it ended: after some 100 it would be taken for dead."""
    login = ("admin", team.login["PREFECT_API_AUTH_STRING"].partition(":")[2])
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "any_resource": {"id": [f"prefect.flow-run.{flow_run}"]},
        "occurred": {"since": (datetime.now(UTC) - timedelta(hours=1)).isoformat()},
    }
    body = {"filter": wanted, "limit": 50}
    answer = httpx.post(f"{team.prefect_url}/api/events/filter", json=body, auth=login, timeout=30)
    times = sorted(datetime.fromisoformat(each["occurred"]) for each in answer.raise_for_status().json()["events"])
    assert times, answer.text
    ended = team.flow_run(flow_run).end_time
    assert ended is not None
    return max((later - earlier).total_seconds() for earlier, later in itertools.pairwise([*times, ended]))


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


def test_a_flow_process_that_is_killed_fails_clearly_is_closed_resumes_and_says_when_it_is_terminated(
    team: Team,
) -> None:
    with team.triggered("ci", *LONG) as waiting:
        before = aliases(team)
        team.flow_process(waiting.run_id).kill()
        code, said = waiting.ended()
    assert code == 1, said
    assert "Crashed: Process exited with status code: -9" in said
    run = run_of(team, waiting.run_id)
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

    with team.triggered("ci", "--resume", run.info.run_id, until="/flow-run/") as resumed:
        wait(lambda: len(epochs(team, run.info.run_id)) > len(logged) + 1, 300)
        terminate(team.flow_process(resumed.run_id))
        code, said = resumed.ended()
    assert code == 1, said
    assert "Crashed" in said
    assert team.flow_run(resumed.run_id).state_name == "Crashed"
    again = team.mlflow().get_run(run.info.run_id)
    assert again.info.status == "KILLED"
    assert "closed_because" not in again.data.tags
    steps = epochs(team, run.info.run_id)
    assert steps == list(range(1, len(steps) + 1))  # each epoch once, none missing
    assert aliases(team) == before
    assert team.dae("sweep").stdout == "sweep: 0 closed, 0 running\n"


def test_a_run_outlives_its_worker_that_is_killed(team: Team) -> None:
    with team.triggered("ci", "--set", "train.epochs=80", *UNTRIED) as waiting:
        worker, flow = team.worker(), team.flow_process(waiting.run_id)
        worker.kill()
        wait(lambda: team.processes("worker", "--pool") and team.worker().pid != worker.pid, 120)
        assert flow.is_running()
        assert "0 closed, 1 running" in team.dae("sweep").stdout  # the sweeper leaves alone what lives
        code, said = waiting.ended()
    assert code == 0, said
    run = run_of(team, waiting.run_id)
    assert (run.info.status, epochs(team, run.info.run_id)) == ("FINISHED", list(range(1, 81)))
    assert team.champion("dae-smoke") == run.data.tags["model_version"]
    assert longest_silence(team, waiting.run_id) < 45


def test_what_a_worker_or_a_machine_takes_along_is_noticed_and_closed_and_the_next_run_works(team: Team) -> None:
    """A worker that is told to end; then worker and flow killed together, as when a machine goes away."""
    before = aliases(team)
    terminated = _worker_is_terminated(team)
    silent = _machine_goes_away(team)  # its training is the next run after the former
    for run in (terminated, silent):
        assert team.mlflow().get_run(run).info.status == "KILLED"
        assert epochs(team, run)[:3] == [1, 2, 3]
    assert aliases(team) == before
    done = team.dae("trigger", "ci", *UNTRIED)
    assert done.returncode == 0, done.stdout + done.stderr


def _worker_is_terminated(team: Team) -> str:
    with team.triggered("ci", *LONG) as waiting:
        flow = team.flow_process(waiting.run_id)
        team.worker().send_signal(signal.SIGTERM)
        psutil.wait_procs([flow], timeout=120)
        team.wait_for_worker()
        assert team.dae("sweep").returncode == 0
        code, said = waiting.ended()
    assert code in (1, 3), said
    assert team.flow_run(waiting.run_id).state.is_final()  # type: ignore[union-attr]
    return str(run_of(team, waiting.run_id).info.run_id)


def _machine_goes_away(team: Team) -> str:
    """Nobody is left to report anything, but the server; the automation is the deployed one, with fewer seconds."""
    with team.prefect() as client:
        (shipped,) = client.read_automations_by_name("dae-crash-silent")
        ci = client.read_deployment_by_name("train-denoiser/ci")
        tree = shipped.model_dump(mode="json", exclude={"id"}) | {"name": "test-crash-silent"}
        # Half as long again as it is from one heartbeat to the next: no run that lives is late by so much.
        tree["trigger"] |= {"within": 45, "match_related": {"prefect.resource.id": f"prefect.deployment.{ci.id}"}}
        mine = client.create_automation(AutomationCore.model_validate(tree))
        try:
            with team.triggered("ci", *LONG) as waiting:
                flow, worker = team.flow_process(waiting.run_id), team.worker()
                for process in (flow, worker):
                    process.suspend()
                for process in (flow, worker):
                    process.kill()
                code, said = waiting.ended()
        finally:
            client.delete_automation(mine)
    assert code == 1, said
    assert "no sign of life" in said
    run = str(run_of(team, waiting.run_id).info.run_id)
    team.wait_for_worker()
    swept = team.dae("trigger", "sweep")  # as its schedule would
    assert (swept.returncode, f"closed {run} (" in swept.stdout) == (0, True), swept
    return run


def test_a_promotion_that_is_killed_leaves_no_half_registered_champion(team: Team, promoted: Promoted) -> None:
    """Killed once the version was made, and while it is tried in a clean process."""
    live = team.champion("dae-smoke")
    assert live is not None
    half = [_killed_while_promoting(team, moment) for moment in ("registered", "tried")]
    assert team.champion("dae-smoke") == live
    ledger = json.loads(team.dae("models", "history", "--name", "dae-smoke", "--json").stdout)
    assert not set(half) & {entry["version"] for entry in ledger}
    assert live == next(entry["version"] for entry in reversed(ledger) if entry["event"] in ("promoted", "forced"))

    assert team.dae("sweep").returncode == 0
    done = team.dae("trigger", "ci", *UNTRIED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert team.champion("dae-smoke") not in (*half, live)
    for made in half:
        assert team.mlflow().get_model_version("dae-smoke", made).aliases == []
    assert not [run for run in team.runs() if run.info.status == "RUNNING"]


def _killed_while_promoting(team: Team, moment: str) -> str:
    """Return the version that was made, and that is whole, and not judged."""
    known, live = versions(team), team.champion("dae-smoke")
    with team.triggered("ci", until="/flow-run/") as waiting:
        (made,) = wait(lambda: versions(team) - known, 300, every=0.1)
        if moment == "tried":
            wait(lambda: team.processes("dae.promotion.smoke_test"), 120, every=0.1)
        team.flow_process(waiting.run_id).kill()
        code, said = waiting.ended()
    assert code == 1, said
    assert team.champion("dae-smoke") == live
    found = team.mlflow().get_model_version("dae-smoke", made)
    assert (found.status, found.tags["verdict"]) == ("READY", "pending")
    assert set(found.aliases) <= {"challenger"}
    return made


def versions(team: Team) -> set[str]:
    return {str(each.version) for each in team.mlflow().search_model_versions("name='dae-smoke'")}
