"""Deployments: made twice without harm, run on time, triggered with exit codes that say how it ended, and told of."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
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
from prefect.states import Cancelling

from .conftest import LONG, SHOWN, Team, flow_run_id, wait

REFUSING = ("--set", "gate.max_val_mse=0.00001")


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
    with team.prefect() as client:
        retrain = client.read_deployment_by_name("train-denoiser/retrain")
        client.update_deployment_schedule(retrain.id, retrain.schedules[0].id, active=False)
        (notify,) = client.read_automations_by_name("dae-notify")
        client.pause_automation(notify.id)
        checked = team.dae("deploy", "--check")
        assert checked.returncode == 10
        assert "differs   deployment  retrain\n" in checked.stdout
        assert "enabled: asked for true, found false" in checked.stdout
        assert "2 of" in checked.stdout
        assert [each.enabled for each in client.read_automations_by_name("dae-notify")] == [False]
    assert team.dae("deploy").returncode == 0
    assert team.dae("deploy", "--check").returncode == 0


def test_what_was_paused_or_is_asked_for_nowhere_is_named(team: Team) -> None:
    file = team.home / "without.yaml"
    tree = yaml.safe_load((team.home / "prefect.yaml").read_text())
    tree["deployments"] = [each for each in tree["deployments"] if each["name"] != "ci"]
    weekly = next(each for each in tree["deployments"] if each["name"] == "retrain")["schedules"][0]
    weekly["slug"] = "renamed"
    file.write_text(yaml.safe_dump(tree))
    with team.prefect() as client:
        client.pause_deployment(client.read_deployment_by_name("train-denoiser/retrain").id)
        checked = team.dae("deploy", "--check", "--file", str(file))
        assert checked.returncode == 10
        assert "paused: asked for false, found true" in checked.stdout
        assert "asked for nowhere, and runs flows.train:train_denoiser" in checked.stdout
        assert team.dae("deploy", "--file", str(file)).returncode == 0
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
    assert config["gate"]["works"]["any_size"] is True


def test_a_file_that_is_wrong_changes_nothing(team: Team) -> None:
    file = team.home / "wrong.yaml"
    tree = yaml.safe_load((team.home / "prefect.yaml").read_text())
    del tree["deployments"][0]["work_pool"]
    file.write_text(yaml.safe_dump(tree))
    done = team.dae("deploy", "--file", str(file))
    assert (done.returncode, "lacks 'work_pool'" in done.stderr) == (2, True), done.stderr
    assert team.dae("deploy", "--check").returncode == 0


def test_a_scheduled_run_comes_in_on_time_trains_and_promotes(team: Team) -> None:
    before = team.champion("dae") if _registered(team, "dae") else None
    due = (datetime.now(UTC) + timedelta(seconds=120)).replace(second=0, microsecond=0)
    file = team.home / "prefect.yaml"
    text = file.read_text()
    try:
        tree = yaml.safe_load(text)
        tree["deployments"][0]["schedules"][0]["cron"] = f"{due:%M %H %d %m} *"
        file.write_text(yaml.safe_dump(tree, sort_keys=False))
        assert team.dae("deploy").returncode == 0
        (run,) = wait(lambda: [r for r in runs_of(team, "train-denoiser/retrain") if r.expected_start_time == due], 150)
        assert run.auto_scheduled
        ended = wait(lambda: team.ended(str(run.id)), 480)
    finally:
        file.write_text(text)
        team.dae("deploy")
    assert ended.state_name == "Completed", ended.state
    # Prefect rounds the time a run has yet to wait, so that one may start half a second early.
    assert timedelta(seconds=-1) < ended.start_time - due < timedelta(seconds=45)
    assert team.champion("dae") not in (None, before)
    (recorded,) = [r for r in team.runs() if r.data.tags.get("prefect.flow_run_id") == str(run.id)]
    assert (recorded.info.status, recorded.data.tags["verdict"]) == ("FINISHED", "promoted")


def _registered(team: Team, name: str) -> bool:
    return any(each.name == name for each in team.mlflow().search_registered_models())


def test_a_triggered_run_that_is_promoted(team: Team, tmp_path: Path) -> None:
    summary, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    summary.write_text("# Before\n")
    done = team.dae("trigger", "ci", "--summary", str(summary), "--junit", str(junit), more={"DAE_ACTOR": "ada"})
    assert done.returncode == 0, done.stdout + done.stderr
    version = team.champion("dae-smoke")
    assert f"Promoted: dae-smoke version {version} is the champion." in done.stdout
    assert "epoch 3: training loss" in done.stdout
    assert f"{team.prefect_url}/runs/flow-run/{flow_run_id(done.stdout)}" in done.stdout
    assert f"{team.mlflow_url}/#/experiments/" in done.stdout
    text = summary.read_text()
    assert text.startswith("# Before\n# Promoted: dae-smoke")
    assert "| noise | images | MSE |" in text
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert suite.find("properties/property[@name='decided_by']").get("value") == "ada"  # type: ignore[union-attr]


def test_a_triggered_run_that_is_refused_is_told_to_the_webhook(team: Team, tmp_path: Path) -> None:
    before = team.champion("dae-smoke") if _registered(team, "dae-smoke") else None
    junit = tmp_path / "junit.xml"
    done = team.dae("trigger", "ci", *REFUSING, "--junit", str(junit))
    assert done.returncode == 10, done.stdout + done.stderr
    assert "above 0.00001" in done.stdout
    assert int(ElementTree.parse(junit).getroot()[0].get("failures", "")) >= 1
    assert team.champion("dae-smoke") == before
    run = team.flow_run(flow_run_id(done.stdout))
    assert (run.state_type, run.state_name) == (StateType.COMPLETED, "Refused")
    told = wait(lambda: [text for text in team.receiver.received if str(run.id) in text], 60)
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
    assert any("Failed" in text for text in wait(lambda: [t for t in team.receiver.received if run in t], 60))


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


def test_waiting_ends_in_time_and_a_run_that_is_cancelled_says_so(team: Team) -> None:
    with team.triggered("ci", *LONG) as waiting:
        run = flow_run_id(waiting.said)  # type: ignore[attr-defined]
        command = [sys.executable, "-m", "prefect", "flow-run", "cancel", run]
        cancelled = subprocess.run(command, env=team.environment, capture_output=True, text=True, check=False)
        assert cancelled.returncode == 0, cancelled.stderr
        said = waiting.communicate(timeout=120)[0]
        assert waiting.returncode == 3, said
        assert "Cancelled" in said
    wait(lambda: _status(team, run) == "KILLED", 60)
    late = team.dae("trigger", "ci", *LONG, "--timeout", "0.05")
    assert late.returncode == 3, late.stdout
    assert "the run goes on" in late.stdout
    run = flow_run_id(late.stdout)
    wait(
        lambda: team.flow_run(run).state_type == StateType.RUNNING, 60
    )  # between worker and process nobody would see to it
    with team.prefect() as client:
        client.set_flow_run_state(UUID(run), Cancelling())
    wait(lambda: team.flow_run(run).state_type == StateType.CANCELLED, 120)


def _status(team: Team, flow_run: str) -> str:
    found = [each for each in team.runs() if each.data.tags.get("prefect.flow_run_id") == flow_run]
    return str(found[0].info.status) if found else "none"


def test_a_run_that_takes_longer_than_its_deployment_allows_times_out(team: Team) -> None:
    with team.prefect() as client:
        ci = client.read_deployment_by_name("train-denoiser/ci")
        created = client.create_flow_run_from_deployment(
            ci.id,
            parameters={"config": ci.parameters["config"] | {"train": {"epochs": 2000}}},
            job_variables={"env": {"DAE_TIMEOUT_HOURS": "0.005"}},
        )
    ended = wait(lambda: team.ended(str(created.id)), 120)
    assert ended.state_name == "TimedOut", ended.state
    assert _status(team, str(created.id)) == "KILLED"
    wait(lambda: any("TimedOut" in text and str(created.id) in text for text in team.receiver.received), 60)


def test_after_downtime_only_the_newest_late_run_goes_ahead_one_at_a_time(team: Team) -> None:
    supervisor(team, "stop", "worker")
    status = team.dae("services", "status", anonymous=True)  # though the server takes it for online a while longer
    assert (status.returncode, status.stdout.count("healthy")) == (1, 3), status.stdout
    before = {run.id for run in runs_of(team, "train-denoiser/retrain")}
    with team.prefect() as client:
        retrain = client.read_deployment_by_name("train-denoiser/retrain")
        start = datetime.now(UTC) + timedelta(seconds=75)  # the scheduler looks once a minute, and only ahead
        three = f"DTSTART:{start:%Y%m%dT%H%M%S}\nRRULE:FREQ=SECONDLY;INTERVAL=5;COUNT=3"
        asked = DeploymentScheduleCreate(schedule=RRuleSchedule(rrule=three), active=True)
        (made,) = client.create_deployment_schedules(retrain.id, [asked])
        try:
            wait(lambda: len(_new(team, before)) == 3 and all(r.state_name == "Late" for r in _new(team, before)), 180)
            services_up(team)
            wait(lambda: all(r.state and r.state.is_final() for r in _new(team, before)), 300)
        finally:
            client.delete_deployment_schedule(retrain.id, made.id)
            services_up(team)
    late = sorted(_new(team, before), key=lambda run: run.expected_start_time or start)
    assert [run.state_name for run in late] == ["Superseded", "Superseded", "Completed"], [r.state for r in late]
    assert all(run.start_time and run.end_time for run in late)
    spans = sorted((run.start_time, run.end_time) for run in late)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))  # type: ignore[operator]
    assert not [r for r in team.runs() if r.data.tags.get("prefect.flow_run_id") in {str(late[0].id), str(late[1].id)}]


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


def test_a_run_that_hangs_is_cancelled_and_told_to_the_webhook(team: Team) -> None:
    """The automation as it is deployed, for runs of one tag, and with seconds in place of hours."""
    with team.prefect() as client:
        (shipped,) = client.read_automations_by_name("dae-cancel-hanging")
        tree = shipped.model_dump(mode="json", exclude={"id"})
        tree["name"] = "test-cancel-hanging"
        tree["trigger"] |= {"within": 20, "match_related": {"prefect.resource.id": "prefect.tag.hangs"}}
        mine = client.create_automation(AutomationCore.model_validate(tree))
        ci = client.read_deployment_by_name("train-denoiser/ci")
        config = ci.parameters["config"] | {"train": {"epochs": 2000}}
        try:
            run = client.create_flow_run_from_deployment(ci.id, parameters={"config": config}, tags=["hangs"])
            wait(lambda: _status(team, str(run.id)) == "RUNNING", 60)
            team.flow_process().send_signal(signal.SIGSTOP)
            ended = wait(lambda: team.ended(str(run.id)), 180)
        finally:
            client.delete_automation(mine)
    assert ended.state_type == StateType.CANCELLED, ended.state
    wait(lambda: any("hangs, and is cancelled" in t and str(run.id) in t for t in team.receiver.received), 60)
    wait(lambda: not team.processes("prefect.engine"), 60)
    assert team.dae("sweep").returncode == 0
    assert _status(team, str(run.id)) == "KILLED"


def test_the_embedded_default_and_the_servers_side_by_side(team: Team, tmp_path: Path) -> None:
    """No limit is asserted: both times are shown at the end of the report."""
    config = str(team.home / "configs" / "smoke.yaml")
    (tmp_path / "home").mkdir()
    bare = {"DAE_HOME": str(tmp_path / "home"), "PREFECT_HOME": str(tmp_path / "prefect")}
    seconds = {}
    for name, arguments, more in (
        ("embedded, first", ["train", "-c", config], bare),
        ("embedded", ["train", "-c", config], bare),
        ("servers", ["trigger", "ci", "-c", config], {}),
    ):
        started = time.monotonic()
        done = team.dae(*arguments, anonymous=bool(more), more=more)
        seconds[name] = time.monotonic() - started
        assert done.returncode == 0, done.stdout + done.stderr
    told = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    SHOWN.append(f"A smoke run: {told}; servers / embedded = {seconds['servers'] / seconds['embedded']:.2f}")
