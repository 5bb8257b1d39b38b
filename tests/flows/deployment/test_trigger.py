"""Starting a run of a deployment and following it, on a real Prefect server; in the place of a worker a thread acts."""

from __future__ import annotations

import logging
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Unfinished
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID
from xml.etree import ElementTree

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import (
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Paused,
    Pending,
    Running,
    Scheduled,
)
from typer.testing import CliRunner

from dae import command_lines
from dae.cli import app
from dae.config import loading
from dae.config.schema import ConfigError, PipelineConfig
from dae.monitoring import staleness
from dae.monitoring.staleness import Staleness
from dae.promotion import reports
from dae.promotion.reports import Ending
from dae.promotion.schemas import PipelineResult
from dae.tracking.client import connect
from dae.tracking.runs import open_run
from flows.close_orphaned_runs import close_orphaned_runs
from flows.deployment import trigger
from flows.deployment.apply import DeploymentError
from flows.train import train_denoiser

Make = Callable[..., PipelineResult]
Act = Callable[[SyncPrefectClient, FlowRun], None]
CONFIG = loading.load(settings=["train.epochs=3", "tracking.model_name=other"])


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trigger, "POLL_SECONDS", 0.04)
    monkeypatch.setattr(trigger, "QUIET_SECONDS", 0.1)


@pytest.fixture(scope="module")
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


class Deployed(NamedTuple):
    """The ids of the deployments of these tests: two of one name, and one that trains nothing."""

    train: UUID
    sweep: UUID
    twin: UUID


@pytest.fixture(scope="module")
def deployed(client: SyncPrefectClient) -> Iterator[Deployed]:
    trains = client.create_flow(train_denoiser)
    made = Deployed(
        client.create_deployment(
            trains,
            "t-train",
            parameters={"config": CONFIG.model_dump(mode="json")},
            parameter_openapi_schema=train_denoiser.parameters.model_dump(),
            enforce_parameter_schema=True,
        ),
        client.create_deployment(
            client.create_flow(close_orphaned_runs),
            "t-sweep",
            parameter_openapi_schema=close_orphaned_runs.parameters.model_dump(),
            enforce_parameter_schema=True,
        ),
        client.create_deployment(client.create_flow(close_orphaned_runs), "t-train"),
    )
    yield made
    for each in made:
        client.delete_deployment(each)


TRAIN = "train-denoiser/t-train"


# Which deployment, and with what


def test_a_deployment_is_found_by_its_name_or_with_its_flows(client: SyncPrefectClient, deployed: Deployed) -> None:
    assert trigger.find_deployment(client, "t-sweep").id == deployed.sweep
    assert trigger.find_deployment(client, "sweep/t-sweep").id == deployed.sweep
    assert trigger.find_deployment(client, TRAIN).id == deployed.train
    assert trigger.find_deployment(client, "sweep/t-train").id == deployed.twin


@pytest.mark.parametrize("name", ["t-train", "nothing", "train-denoiser/t-sweep", "sweep", ""])
def test_a_name_of_none_or_of_two_is_refused_with_those_there_are(
    client: SyncPrefectClient, deployed: Deployed, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"received {name}$") as refused:
        trigger.find_deployment(client, name)
    for known in ("sweep/t-sweep", "sweep/t-train", TRAIN):
        assert known in str(refused.value)


def test_a_deployment_that_trains_gets_its_own_configuration_changed(
    client: SyncPrefectClient, deployed: Deployed
) -> None:
    found = client.read_deployment(deployed.train)
    assert trigger.make_parameters(found, None, []) == {"config": CONFIG.model_dump(mode="json")}
    asked = trigger.make_parameters(found, None, ["train.epochs=9", "gate.dry_run=true"])
    config = PipelineConfig.model_validate(asked["config"])
    assert (config.train.epochs, config.gate.dry_run, config.tracking.model_name) == (9, True, "other")
    asked = trigger.make_parameters(found, PipelineConfig(), ["train.epochs=9"])
    config = PipelineConfig.model_validate(asked["config"])
    assert (config.train.epochs, config.tracking.model_name) == (9, "dae")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.epoch=1", "train.epoch: unknown key"),
        ("train.epochs=0", "train.epochs: input should be greater than or equal to 1; received 0"),
        ("train.epochs", "must be PATH=VALUE"),
        ("dry_run=true", "dry_run: unknown key"),
    ],
)
def test_a_setting_that_breaks_a_rule_is_refused(
    client: SyncPrefectClient, deployed: Deployed, setting: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        trigger.make_parameters(client.read_deployment(deployed.train), None, [setting])


def test_another_deployment_gets_its_parameters_with_their_defaults(
    client: SyncPrefectClient, deployed: Deployed
) -> None:
    found = client.read_deployment(deployed.sweep)
    assert trigger.make_parameters(found, None, []) == {"dry_run": False}
    assert trigger.make_parameters(found, None, ["dry_run=true"]) == {"dry_run": True}
    with pytest.raises(ConfigError, match="gate: unknown key; known here: dry_run"):
        trigger.make_parameters(found, None, ["gate.dry_run=true"])
    with pytest.raises(ConfigError, match="--config and the gate's switches are for deployments that train, t-sweep"):
        trigger.make_parameters(found, CONFIG, [])


def test_what_the_server_does_not_take_is_told(client: SyncPrefectClient, deployed: Deployed) -> None:
    found = client.read_deployment(deployed.sweep)
    with pytest.raises(DeploymentError, match="t-sweep: the server refuses the run"):
        trigger.start_run(client, found, {"dry_run": "perhaps"}, "ada")
    assert runs_of(client, deployed.sweep) == []


def test_a_run_knows_who_asked_for_it(client: SyncPrefectClient, deployed: Deployed) -> None:
    run = trigger.start_run(client, client.read_deployment(deployed.sweep), {"dry_run": True}, "ada", "by-hand")
    found = client.read_flow_run(run.id)
    assert (found.name, found.parameters, found.deployment_id) == ("by-hand", {"dry_run": True}, deployed.sweep)
    assert found.job_variables == {"env": {"DAE_ACTOR": "ada"}}
    assert str(run.id) in trigger.run_url(run)
    client.delete_flow_run(run.id)


# How it ended


@pytest.mark.parametrize(
    ("state", "ending"),
    [
        (None, "timed out"),
        (Completed(), "completed"),
        (Completed(name="Refused"), "refused"),
        (Completed(name="Cached"), "completed"),
        (Failed(), "failed"),
        (Failed(name="TimedOut"), "timed out"),
        (Crashed(), "failed"),
        (Cancelled(), "cancelled"),
        (Cancelled(name="Superseded"), "cancelled"),
    ],
    ids=lambda each: each.name if isinstance(each, State) else str(each),
)
def test_every_end_has_a_word(state: State[Any] | None, ending: Ending) -> None:
    assert trigger.describe_ending(state) == ending


# Following


def runs_of(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
    return client.read_flow_runs(flow_run_filter=chosen)


@pytest.fixture
def run(client: SyncPrefectClient, deployed: Deployed) -> Iterator[FlowRun]:
    """A run that was asked for and that nobody works on."""
    made = client.create_flow_run_from_deployment(deployed.sweep)
    yield made
    client.delete_flow_run(made.id)


def put(client: SyncPrefectClient, run: FlowRun, *states: State[Any]) -> None:
    for state in states:
        client.set_flow_run_state(run.id, state, force=True)


def log(client: SyncPrefectClient, run: FlowRun, *messages: str, level: int = logging.INFO, ago: float = 0) -> None:
    now = datetime.now(UTC) - timedelta(seconds=ago)
    lines = [
        LogCreate(
            name="dae",
            level=level,
            message=message,
            timestamp=now + timedelta(milliseconds=number),
            flow_run_id=run.id,
        )
        for number, message in enumerate(messages)
    ]
    client.create_logs(lines)


@contextmanager
def meanwhile(act: Callable[[SyncPrefectClient], None]) -> Iterator[None]:
    """Do something in another thread, which has a client of its own; its errors are raised in the end."""

    def work() -> None:
        with get_client(sync_client=True) as client:
            act(client)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result(timeout=30)


def test_a_run_that_is_over_is_told_at_once_with_all_it_logged(client: SyncPrefectClient, run: FlowRun) -> None:
    log(client, run, *(f"line {number}" for number in range(450)), ago=60)
    log(client, run, "careful", level=logging.WARNING, ago=50)
    log(client, run, "broken", level=logging.ERROR, ago=40)
    put(client, run, Failed(message="boom"))
    said: list[str] = []
    state = trigger.follow_run(client, run.id, said.append, None)
    assert state is not None
    assert state.name == "Failed"
    assert said[0] == "Failed: boom"
    told = [line.split("  ", 1)[1] for line in said[1:]]
    assert told == [*(f"line {number}" for number in range(450)), "WARNING careful", "ERROR broken"]


def test_states_and_lines_are_told_as_they_come_and_once_each(
    client: SyncPrefectClient, run: FlowRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trigger, "QUIET_SECONDS", 3)  # for the last word to come in
    said: list[str] = []

    def until(text: str) -> None:
        deadline = time.monotonic() + 20
        while not any(text in line for line in said):
            assert time.monotonic() < deadline, said
            time.sleep(0.02)

    def act(other: SyncPrefectClient) -> None:
        until("Scheduled")
        put(other, run, Pending())
        until("Pending")
        put(other, run, Running())
        until("Running")
        log(other, run, "one", "two")
        until("two")
        log(other, run, "of another batch, late", ago=4)
        until("late")
        log(other, run, trigger.SKIPPED_MESSAGE, "three")
        until("three")
        put(other, run, Completed(message="all done"))
        until("all done")
        log(other, run, "the last word")

    with meanwhile(act):
        state = trigger.follow_run(client, run.id, said.append, 60)
    assert state is not None
    assert state.is_completed()
    told = [line.split("  ", 1)[-1] for line in said]
    assert told == [
        "Scheduled",
        "Pending",
        "Running",
        "one",
        "two",
        "of another batch, late",
        "three",
        "Completed: all done",
        "the last word",
    ]


@pytest.mark.parametrize(
    "state",
    [Scheduled(), Paused(timeout_seconds=60), Cancelling()],
    ids=lambda s: s.name,
)
def test_a_run_that_is_not_over_is_followed_until_the_time_is_up(
    client: SyncPrefectClient, run: FlowRun, state: State[Any]
) -> None:
    put(client, run, Running(), state)
    started = time.monotonic()
    assert trigger.follow_run(client, run.id, lambda _: None, 0.2) is None
    assert time.monotonic() - started > 0.2
    assert client.read_flow_run(run.id).state_name == state.name


def test_a_server_that_stays_away_is_given_up(
    prefect_server: None, run: FlowRun, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trigger, "PATIENCE_SECONDS", 0)
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{unused_port}/api"}),
        get_client(sync_client=True) as away,
        pytest.raises(DeploymentError, match="has not answered for 0 s"),
    ):
        trigger.follow_run(away, run.id, lambda _: None, None)


class Forward(BaseRequestHandler):
    """Passes a connection on to the Prefect server."""

    def handle(self) -> None:
        address = urlsplit(str(PREFECT_API_URL.value()))
        with socket.create_connection((str(address.hostname), int(address.port or 0))) as there:
            ends = {self.request: there, there: self.request}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    if not (data := end.recv(1 << 16)):
                        return
                    ends[end].sendall(data)


def test_a_server_that_is_away_for_a_moment_is_waited_for(
    client: SyncPrefectClient, run: FlowRun, unused_port: int
) -> None:
    put(client, run, Completed(message="meanwhile"))
    said: list[str] = []
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{unused_port}/api"}):
        away = get_client(sync_client=True)
    with away, ThreadPoolExecutor(1) as pool:
        following = pool.submit(trigger.follow_run, away, run.id, said.append, 60)
        with pytest.raises(Unfinished):
            following.result(timeout=0.5)
        with ThreadingTCPServer(("127.0.0.1", unused_port), Forward) as back:
            back.daemon_threads = True
            threading.Thread(target=back.serve_forever, args=(0.05,), daemon=True).start()
            state = following.result(timeout=30)
            back.shutdown()
    assert state is not None
    assert state.is_completed()
    assert said == ["Completed: meanwhile"]


# The command


class Done(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


def dae(*arguments: str) -> Done:
    done = CliRunner().invoke(app, ["trigger", *arguments])
    return Done(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def worked(client: SyncPrefectClient, deployed: Deployed, mlflow_store: Path) -> Iterator[Callable[..., Done]]:
    """A function that triggers a run while somebody acts on it as a worker would, and tells how the command ended."""
    known = {run.id for run in runs_of(client, deployed.train)}

    def new(asked: SyncPrefectClient) -> list[FlowRun]:
        return [run for run in runs_of(asked, deployed.train) if run.id not in known]

    def work(act: Act, *arguments: str) -> Done:
        def next_run(other: SyncPrefectClient) -> None:
            deadline = time.monotonic() + 20
            while not (found := new(other)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            put(other, found[0], Running())
            act(other, found[0])

        with meanwhile(next_run):
            return dae(TRAIN, *arguments)

    yield work
    for run in new(client):
        client.delete_flow_run(run.id)


def recorded(run: FlowRun, result: Callable[[str], PipelineResult] | None = None) -> str:
    """Leave in MLflow what a training run does, with a result if it came to one; return the run's id."""
    with open_run(PipelineConfig.model_validate(run.parameters["config"]), str(run.id)) as run_id:
        if result is not None:
            reports.log_result(result(run_id))
    return run_id


def suite(junit: Path) -> ElementTree.Element:
    (found,) = ElementTree.parse(junit).getroot()
    return found


def files(folder: Path) -> list[str]:
    return ["--summary", str(folder / "summary.md"), "--junit", str(folder / "junit.xml")]


def test_a_promoted_run_exits_0_with_its_verdict(
    worked: Callable[..., Done], make_result: Make, tmp_path: Path, client: SyncPrefectClient, deployed: Deployed
) -> None:
    made: dict[str, Any] = {}

    def act(other: SyncPrefectClient, run: FlowRun) -> None:
        log(other, run, "epoch 1: training loss 0.1")
        made.update(run=run, run_id=recorded(run, lambda run_id: make_result(run_id=run_id)))
        put(other, run, Completed())

    code, out, err = worked(act, "--set", "train.epochs=5", *files(tmp_path))
    assert (code, err) == (0, "")
    assert str(made["run"].id) in out.splitlines()[0]
    assert "epoch 1: training loss 0.1" in out
    assert "Promoted: dae version 7 is the champion." in out
    assert made["run_id"] in out
    assert made["run"].parameters["config"]["train"]["epochs"] == 5
    assert (tmp_path / "summary.md").read_text().startswith("# Promoted: dae version 7 is the champion.")
    told = {each.get("name"): each.get("value") for each in suite(tmp_path / "junit.xml").iter("property")}
    assert (told["outcome"], told["run_id"]) == ("promoted", made["run_id"])
    assert str(made["run"].id) in str(told["Prefect"])


def test_a_refused_run_exits_10_with_its_verdict(
    worked: Callable[..., Done], make_result: Make, tmp_path: Path
) -> None:
    def act(other: SyncPrefectClient, run: FlowRun) -> None:
        recorded(run, lambda run_id: make_result(run_id=run_id, mse=0.02))
        put(other, run, Completed(name="Refused", message="not good enough"))

    code, out, err = worked(act, *files(tmp_path))
    assert (code, err) == (10, "")
    assert "is above 0.0069" in out
    assert suite(tmp_path / "junit.xml").get("failures") != "0"
    assert (tmp_path / "summary.md").read_text().startswith("# Refused: dae version 7 is registered")


ENDS: dict[str, tuple[State[Any], int, str]] = {
    "failed": (Failed(message="DataError: no such path"), 1, "failed"),
    "superseded": (Cancelled(name="Superseded", message="a newer run"), 3, "cancelled"),
    "timed out": (State(type=StateType.FAILED, name="TimedOut", message="after 6 hours"), 3, "timed out"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_run_without_a_verdict_exits_as_it_ended(worked: Callable[..., Done], tmp_path: Path, name: str) -> None:
    state, wanted, ending = ENDS[name]
    code, out, err = worked(lambda other, run: put(other, run, state), *files(tmp_path))
    assert (code, err) == (wanted, "")
    assert f"{ending.capitalize()}: {state.message}" in out
    assert "--resume" not in out
    assert (tmp_path / "summary.md").read_text().splitlines()[:3] == [
        f"# {summary_name(tmp_path)}: {ending}",
        "",
        state.message,
    ]
    assert suite(tmp_path / "junit.xml").find("testcase/error").get("type") == ending  # type: ignore[union-attr]


def summary_name(folder: Path) -> str:
    return str(suite(folder / "junit.xml").get("name"))


def test_a_run_that_judges_nothing_exits_0(worked: Callable[..., Done], tmp_path: Path) -> None:
    code, out, err = worked(lambda other, run: put(other, run, Completed(message="0 closed")), *files(tmp_path))
    assert (code, err) == (0, "")
    assert "Completed: 0 closed" in out
    assert suite(tmp_path / "junit.xml").get("errors") == "0"


def test_a_check_for_staleness_ends_without_a_warning(worked: Callable[..., Done]) -> None:
    def act(other: SyncPrefectClient, run: FlowRun) -> None:
        found = Staleness(model_name="dae", version=None, stale=False, reasons=("dae has no champion",))
        staleness.log_staleness(found, "no champion", str(run.id))
        put(other, run, Completed(message="no champion: dae has no champion"))

    code, out, err = worked(act)
    assert (code, err) == (0, "")
    assert "Completed: no champion: dae has no champion" in out


def test_a_run_that_failed_in_training_says_how_it_goes_on(worked: Callable[..., Done], tmp_path: Path) -> None:
    made: list[str] = []

    def act(other: SyncPrefectClient, run: FlowRun) -> None:
        made.append(recorded(run))
        connect().set_terminated(made[0], "FAILED")
        put(other, run, Failed(message="ValueError: boom"))

    code, out, _ = worked(act, *files(tmp_path))
    assert code == 1
    assert f"go on with: {command_lines.dae_command(f'trigger {TRAIN} --resume {made[0]}')}" in out
    assert f"--resume {made[0]}" in (tmp_path / "summary.md").read_text()


def test_a_run_is_resumed_under_its_own_configuration(worked: Callable[..., Done]) -> None:
    own = loading.with_settings(CONFIG, ["train.epochs=77"])
    with pytest.raises(KeyboardInterrupt), open_run(own, "none") as run_id:
        raise KeyboardInterrupt
    asked: list[PipelineConfig] = []

    def act(other: SyncPrefectClient, run: FlowRun) -> None:
        asked.append(PipelineConfig.model_validate(run.parameters["config"]))
        put(other, run, Completed())

    assert worked(act, "--resume", run_id[:8]).code == 0
    assert (asked[0].train.epochs, asked[0].tracking.resume) == (77, run_id)


@pytest.mark.usefixtures("mlflow_store", "deployed")
@pytest.mark.parametrize(
    ("more", "said"), [(["--set", "train.epochs=4"], "leave out --config and --set"), ([], f"no run {'f' * 32}")]
)
def test_what_cannot_be_resumed_is_refused(more: list[str], said: str) -> None:
    code, out, err = dae(TRAIN, "--resume", "f" * 32, *more)
    assert (code, out) == (2, "")
    assert said in err.replace("\n", " ")


def test_where_mlflow_cannot_be_asked_the_run_exits_as_it_ended_all_the_same(
    worked: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    refused: State[Any] = Completed(name="Refused", message="is above 0.0069")
    code, out, err = worked(lambda other, run: put(other, run, refused))
    assert code == 10
    assert "Refused: is above 0.0069" in out
    assert err.startswith("warning: the verdict cannot be read from MLflow: ")


def test_waiting_ends_in_time_and_the_run_goes_on(
    worked: Callable[..., Done], tmp_path: Path, client: SyncPrefectClient, deployed: Deployed
) -> None:
    code, out, _ = worked(lambda other, run: None, "--timeout", "0.01", *files(tmp_path))
    assert code == 3
    assert "Timed out: not over after 0.01 minutes; the run continues" in out
    assert suite(tmp_path / "junit.xml").find("testcase/error").get("type") == "timed out"  # type: ignore[union-attr]
    assert [run.state_name for run in runs_of(client, deployed.train)] == ["Running"]


def test_whoever_stops_waiting_is_told_that_the_run_goes_on(
    worked: Callable[..., Done], client: SyncPrefectClient, deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    following, follow = threading.Event(), trigger.follow_run

    def followed(*arguments: Any) -> Any:
        following.set()
        return follow(*arguments)

    def press(_: SyncPrefectClient, run: FlowRun) -> None:
        assert following.wait(60)
        time.sleep(0.5)  # into the pause between two looks, best of all
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    monkeypatch.setattr(trigger, "follow_run", followed)
    monkeypatch.setattr(trigger, "POLL_SECONDS", 30)
    code, _, err = worked(press)
    (run,) = runs_of(client, deployed.train)
    assert code != 0
    assert f"The run continues; to stop it: {command_lines.program_command('prefect')} flow-run cancel {run.id}" in err
    assert run.state_name == "Running"


def test_without_waiting_the_run_is_left_to_itself(
    worked: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAE_ACTOR", "ada")
    seen: list[FlowRun] = []
    code, out, _ = worked(lambda other, run: seen.append(run), "--no-wait", *files(tmp_path))
    assert code == 0
    assert [str(seen[0].id) in line for line in out.splitlines()] == [True]
    assert seen[0].job_variables == {"env": {"DAE_ACTOR": "ada"}}
    assert not (tmp_path / "summary.md").exists()


def test_the_gates_switches_and_a_file_reach_the_run(worked: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("train: {epochs: 2}\n")
    asked: list[PipelineConfig] = []

    def act(other: SyncPrefectClient, run: FlowRun) -> None:
        asked.append(PipelineConfig.model_validate(run.parameters["config"]))
        put(other, run, Completed())

    switches = ["--force", "--reason", "the data moved", "--dry-run", "--approval-hours", "2"]
    assert worked(act, "--config", str(tmp_path / "small.yaml"), "--set", "model.width=8", *switches).code == 0
    (config,) = asked
    assert (config.train.epochs, config.model.width, config.tracking.model_name) == (2, 8, "dae")
    assert (config.gate.force, config.gate.dry_run, config.gate.approval_hours) == ("the data moved", True, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([TRAIN, "--set", "train.epochs=0"], "train.epochs: input should be greater than or equal to 1"),
        ([TRAIN, "--junit", "/nowhere/junit.xml"], "/nowhere/junit.xml must be a file that can be written"),
        ([TRAIN, "--force"], "--force needs --reason"),
        ([TRAIN, "--config", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
        ([TRAIN, "--timeout", "0"], "--timeout"),
        (["t-sweep", "--dry-run"], "gate: unknown key; known here: dry_run"),
        (["nothing"], "DEPLOYMENT must name one of the server's"),
    ],
)
def test_what_is_wrong_is_refused_before_a_run_is_made(
    client: SyncPrefectClient, deployed: Deployed, arguments: list[str], said: str
) -> None:
    code, out, err = dae(*arguments)
    assert (code, out) == (2, "")
    assert said in err.replace("\n", " ")
    assert runs_of(client, deployed.train) == runs_of(client, deployed.sweep) == []


def test_without_a_server_nothing_is_triggered(prefect_server: None) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        code, out, err = dae("retrain")
    assert (code, out) == (1, "")
    assert "PREFECT_API_URL must name a Prefect server" in err
