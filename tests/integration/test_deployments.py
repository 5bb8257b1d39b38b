"""Deployments: made twice without harm, run on time, triggered with exit codes that say how it ended, and told of."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import RRuleSchedule
from prefect.events.schemas.automations import AutomationCore

from .conftest import LONG, SHOWN, UNTRIED, Promoted, Team, flow_run_id, wait

REFUSING = ("--set", "gate.max_val_mse=0.00001", *UNTRIED)


def runs_of(team: Team, deployment: str) -> list[FlowRun]:
    with team.prefect() as client:
        found = client.read_deployment_by_name(deployment)
        wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[found.id]))
        return client.read_flow_runs(flow_run_filter=wanted, limit=200)


def stored(client: SyncPrefectClient) -> dict[UUID, dict[str, Any]]:
    """Return deployments and automations, without what the server itself writes whenever a worker asks for work."""
    polled = {"status", "last_polled"}
    deployments = {each.id: each.model_dump(exclude=polled) for each in client.read_deployments()}
    return deployments | {each.id: each.model_dump() for each in client.read_automations()}


def test_deploying_twice_changes_nothing(team: Team, deployed: subprocess.CompletedProcess[str]) -> None:
    for kind, name in (("deployment", "retrain-if-stale"), ("automation", "dae-notify"), ("webhook", "dae-notify")):
        assert any(line.split() == ["created", kind, name] for line in deployed.stdout.splitlines()), deployed.stdout
    with team.prefect() as client:
        before = stored(client)
        again = team.dae("deploy")
        assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "Nothing differs.")
        assert stored(client) == before
    assert team.dae("deploy", "--check").returncode == 0


def test_what_differs_is_named_and_deploying_puts_it_right(team: Team) -> None:
    """A schedule and an automation switched off, a deployment paused, one that no file asks for, and a schedule renamed."""
    file = team.home / "without.yaml"
    tree = yaml.safe_load((team.home / "prefect.yaml").read_text())
    tree["deployments"] = [each for each in tree["deployments"] if each["name"] != "ci"]
    next(each for each in tree["deployments"] if each["name"] == "retrain")["schedules"][0]["slug"] = "renamed"
    file.write_text(yaml.safe_dump(tree))
    with team.prefect() as client:
        retrain = client.read_deployment_by_name("train-denoiser/retrain")
        client.pause_deployment(retrain.id)
        stale = client.read_deployment_by_name("retrain-if-stale/retrain-if-stale")
        client.update_deployment_schedule(stale.id, stale.schedules[0].id, active=False)
        (notify,) = client.read_automations_by_name("dae-notify")
        client.pause_automation(notify.id)
        before = stored(client)
        checked = team.dae("deploy", "--check", "--file", str(file))
        assert checked.returncode == 10
        assert "differs   deployment  retrain\n" in checked.stdout
        assert "differs   deployment  retrain-if-stale\n" in checked.stdout
        assert "paused: specified false, found true" in checked.stdout
        assert "enabled: specified true, found false" in checked.stdout
        assert "not specified, and runs flows.train:train_denoiser" in checked.stdout
        assert "4 of" in checked.stdout
        assert stored(client) == before
        assert team.dae("deploy", "--file", str(file)).returncode == 0
        assert [each.enabled for each in client.read_automations_by_name("dae-notify")] == [True]
        assert client.read_deployment(stale.id).schedules[0].active is True
        assert client.read_deployment_by_name("train-denoiser/ci").paused is True
        retrain = client.read_deployment_by_name("train-denoiser/retrain")
        assert (retrain.paused, [each.slug for each in retrain.schedules]) == (False, ["renamed"])
        assert team.dae("deploy").returncode == 0
        assert client.read_deployment_by_name("train-denoiser/ci").paused is False
    assert team.dae("deploy", "--check").returncode == 0


def test_a_deployment_holds_a_whole_configuration(team: Team) -> None:
    with team.prefect() as client:
        config = client.read_deployment_by_name("train-denoiser/retrain").parameters["config"]
    assert set(config) == {"data", "noise", "model", "train", "gate", "tracking"}
    assert config["gate"]["smoke_test"]["any_size"] is True


def test_a_file_that_is_wrong_changes_nothing(team: Team) -> None:
    file = team.home / "wrong.yaml"
    tree = yaml.safe_load((team.home / "prefect.yaml").read_text())
    del tree["deployments"][0]["work_pool"]
    file.write_text(yaml.safe_dump(tree))
    with team.prefect() as client:
        before = stored(client)
        done = team.dae("deploy", "--file", str(file))
        assert (done.returncode, "lacks 'work_pool'" in done.stderr) == (2, True), done.stderr
        assert stored(client) == before


def test_a_scheduled_run_comes_in_on_time(team: Team) -> None:
    """The sweep's schedule, as prefect.yaml has it, but with a second of its own."""
    file = team.home / "prefect.yaml"
    text = file.read_text()
    try:
        due = _deployed_for_soon(team, yaml.safe_load(text))
        (run,) = wait(lambda: [r for r in runs_of(team, "sweep/sweep") if r.expected_start_time == due], 60)
        assert run.auto_scheduled
        ended = wait(lambda: team.ended(str(run.id)), 300)
    finally:
        file.write_text(text)
        team.dae("deploy")
    assert ended.state_name == "Completed", ended.state
    # Prefect rounds the time a run has yet to wait, so that one may start half a second early.
    assert timedelta(seconds=-1) < ended.start_time - due < timedelta(seconds=60)


def _deployed_for_soon(team: Team, tree: dict[str, Any]) -> datetime:
    """Deploy a moment that is still to come once that is done: the scheduler looks ahead alone, every few seconds."""
    (sweep,) = [each for each in tree["deployments"] if each["name"] == "sweep"]
    for seconds in (25, 60, 150):
        due = (datetime.now(UTC) + timedelta(seconds=seconds)).replace(microsecond=0)
        sweep["schedules"][0]["cron"] = f"{due:%M %H %d %m} * {due:%S}"
        (team.home / "prefect.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        assert team.dae("deploy").returncode == 0
        if due - datetime.now(UTC) > timedelta(seconds=8):
            return due
    raise AssertionError("deploying takes minutes")


def test_a_triggered_run_that_is_promoted(team: Team, promoted: Promoted) -> None:
    said, version = promoted.done.stdout, promoted.champion
    (run,) = [r for r in team.runs() if r.data.tags.get("prefect.flow_run_id") == promoted.run_id]
    assert run.data.tags["model_version"] == version
    assert (run.info.status, run.data.tags["verdict"]) == ("FINISHED", "promoted")
    assert f"Promoted: dae-smoke version {version} is the champion." in said
    assert "epoch 3: training loss" in said
    assert f"{team.prefect_url}/runs/flow-run/{promoted.run_id}" in said
    assert f"{team.mlflow_url}/#/experiments/" in said
    text = promoted.summary.read_text()
    assert text.startswith("# Before\n# Promoted: dae-smoke")
    assert "| noise | images | MSE |" in text
    suite = ElementTree.parse(promoted.junit).getroot()[0]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert suite.find("properties/property[@name='decided_by']").get("value") == "ada"  # type: ignore[union-attr]


def test_a_triggered_run_that_is_refused_is_told_to_the_webhook(team: Team, tmp_path: Path) -> None:
    before = team.champion("dae-smoke")
    junit = tmp_path / "junit.xml"
    done = team.dae("trigger", "ci", *REFUSING, "--junit", str(junit))
    assert done.returncode == 10, done.stdout + done.stderr
    assert "above 0.00001" in done.stdout
    assert int(ElementTree.parse(junit).getroot()[0].get("failures", "")) >= 1
    assert team.champion("dae-smoke") == before
    run = team.flow_run(flow_run_id(done.stdout))
    assert (run.state_type, run.state_name) == (StateType.COMPLETED, "Refused")
    told = wait(lambda: [text for text in team.receiver.received if str(run.id) in text], 120)
    assert len(told) == 1
    assert told[0].startswith(f"train-denoiser {run.name}: Refused. ")
    assert "is above 0.00001" in told[0]


def test_a_triggered_run_that_fails_is_told_to_the_webhook(team: Team, tmp_path: Path) -> None:
    summary, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    asked = ("--set", "data.source=nowhere", "--summary", str(summary), "--junit", str(junit))
    done = team.dae("trigger", "ci", *asked)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "nowhere" in done.stdout
    run = flow_run_id(done.stdout)
    assert "failed" in summary.read_text().splitlines()[0]
    assert ElementTree.parse(junit).getroot()[0].get("errors") == "1"
    assert any("Failed" in text for text in wait(lambda: [t for t in team.receiver.received if run in t], 120))


def test_what_is_wrong_is_refused_before_a_run_is_made(team: Team) -> None:
    before = len(runs_of(team, "train-denoiser/ci"))
    for arguments, said in (
        (["ci", "--set", "train.epochs=0"], "train.epochs"),
        (["ci", "--set", "train.epoch=1"], "train.epoch: unknown key"),
        (["ci", "--junit", "/nowhere/junit.xml"], "/nowhere/junit.xml must be a file that can be written"),
        (["ci", "--force"], "--force needs --reason"),
        (["nothing"], "train-denoiser/retrain"),
        (["sweep", "--dry-run"], "gate: unknown key; known here: dry_run"),
    ):
        done = team.dae("trigger", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert said in done.stderr, done.stderr
    assert len(runs_of(team, "train-denoiser/ci")) == before


def test_a_run_that_is_cancelled_says_so(team: Team) -> None:
    with team.triggered("ci", *LONG) as waiting:
        command = [sys.executable, "-m", "prefect", "flow-run", "cancel", waiting.run_id]
        cancelled = subprocess.run(command, env=team.environment, capture_output=True, text=True, check=False)
        assert cancelled.returncode == 0, cancelled.stderr
        code, said = waiting.ended()
    assert code == 3, said
    assert "Cancelled" in said
    wait(lambda: _status(team, waiting.run_id) == "KILLED", 120)


def _status(team: Team, flow_run: str) -> str:
    found = [each for each in team.runs() if each.data.tags.get("prefect.flow_run_id") == flow_run]
    return str(found[0].info.status) if found else "none"


def test_a_run_that_takes_too_long_times_out_and_one_that_hangs_is_cancelled(team: Team) -> None:
    """Both at once. The automation for the latter is as deployed, for runs of one tag, with seconds in place of hours."""
    with team.prefect() as client:
        (shipped,) = client.read_automations_by_name("dae-cancel-hanging")
        tree = shipped.model_dump(mode="json", exclude={"id"})
        tree["name"] = "test-cancel-hanging"
        tree["trigger"] |= {"within": 30, "match_related": {"prefect.resource.id": "prefect.tag.hangs"}}
        mine = client.create_automation(AutomationCore.model_validate(tree))
        try:
            hangs = _long_run(client, tags=["hangs"])
            long = _long_run(client, job_variables={"env": {"DAE_TIMEOUT_HOURS": "0.005"}})
            wait(lambda: _status(team, hangs) == "RUNNING", 300)
            team.flow_process(hangs).send_signal(signal.SIGSTOP)
            cancelled, timed_out = (wait(partial(team.ended, run), 300) for run in (hangs, long))
        finally:
            client.delete_automation(mine)
    assert (cancelled.state_type, timed_out.state_name) == (StateType.CANCELLED, "TimedOut")
    assert _status(team, long) == "KILLED"
    for run, word in ((hangs, "hangs, and is cancelled"), (long, "TimedOut")):
        wait(partial(_told, team, run, word), 120)
    wait(lambda: not team.processes("prefect.engine"), 120)
    assert team.dae("sweep").returncode == 0
    assert _status(team, hangs) == "KILLED"


def _told(team: Team, run: str, word: str) -> bool:
    return any(word in text and run in text for text in team.receiver.received)


def _long_run(client: SyncPrefectClient, **more: Any) -> str:
    """Ask for a run of `ci` that would train for minutes; return its id."""
    ci = client.read_deployment_by_name("train-denoiser/ci")
    config = ci.parameters["config"] | {"train": {"epochs": 2000}}
    return str(client.create_flow_run_from_deployment(ci.id, parameters={"config": config}, **more).id)


def test_after_downtime_only_the_newest_late_run_goes_ahead_one_at_a_time_and_promotes(team: Team) -> None:
    supervisor(team, "stop", "worker")
    status = team.dae("services", "status", anonymous=True)  # though the server takes it for online a while longer
    assert (status.returncode, status.stdout.count("healthy")) == (1, 3), status.stdout
    before, live = {run.id for run in runs_of(team, "train-denoiser/retrain")}, team.champion("dae")
    with team.prefect() as client:
        retrain = client.read_deployment_by_name("train-denoiser/retrain")
        start = datetime.now(UTC) + timedelta(seconds=20)  # the scheduler looks every few seconds, and only ahead
        three = f"DTSTART:{start:%Y%m%dT%H%M%S}\nRRULE:FREQ=SECONDLY;INTERVAL=1;COUNT=3"
        asked = DeploymentScheduleCreate(schedule=RRuleSchedule(rrule=three), active=True)
        (made,) = client.create_deployment_schedules(retrain.id, [asked])
        try:
            wait(lambda: len(_new(team, before)) == 3 and all(r.state_name == "Late" for r in _new(team, before)), 180)
            services_up(team)
            wait(lambda: all(r.state and r.state.is_final() for r in _new(team, before)), 600)
        finally:
            client.delete_deployment_schedule(retrain.id, made.id)
            services_up(team)
    late = sorted(_new(team, before), key=lambda run: run.expected_start_time or start)
    assert [run.state_name for run in late] == ["Superseded", "Superseded", "Completed"], [r.state for r in late]
    assert all(run.start_time and run.end_time for run in late)
    spans = sorted((run.start_time, run.end_time) for run in late)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))  # type: ignore[operator]
    recorded = [r for r in team.runs() if r.data.tags.get("prefect.flow_run_id") in {str(run.id) for run in late}]
    assert [r.data.tags["prefect.flow_run_id"] for r in recorded] == [str(late[2].id)]
    assert (recorded[0].info.status, recorded[0].data.tags["verdict"]) == ("FINISHED", "promoted")
    assert team.champion("dae") == recorded[0].data.tags["model_version"] != live


def _new(team: Team, before: set[UUID]) -> list[FlowRun]:
    return [run for run in runs_of(team, "train-denoiser/retrain") if run.id not in before and run.auto_scheduled]


def services_up(team: Team) -> None:
    assert team.dae("services", "up", anonymous=True).returncode == 0


def supervisor(team: Team, verb: str, program: str) -> None:
    """Use supervisord's own command on a program."""
    command = [
        sys.executable,
        "-m",
        "supervisor.supervisorctl",
        "-c",
        str(team.folder / "supervisord.conf"),
        verb,
        program,
    ]
    subprocess.run(command, capture_output=True, check=True)


def test_the_embedded_default_and_the_servers_side_by_side(team: Team, promoted: Promoted, tmp_path: Path) -> None:
    """No limit is asserted: both times are shown at the end of the report."""
    (tmp_path / "home").mkdir()
    bare = {"DAE_HOME": str(tmp_path / "home"), "PREFECT_HOME": str(tmp_path / "prefect")}
    started = time.monotonic()
    done = team.dae("train", "-c", str(team.home / "configs" / "smoke.yaml"), anonymous=True, more=bare)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    SHOWN.append(
        f"A smoke run: embedded, with databases to make first, {seconds:.1f} s, servers {promoted.seconds:.1f} s"
    )
