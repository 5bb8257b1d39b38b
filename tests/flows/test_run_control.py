"""How long a flow run may take, which of those that are late goes ahead, and how a refusal is told from a promotion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Completed, Failed, Scheduled

from dae.config.schema import ConfigError
from dae.promotion.schemas import PipelineResult
from flows import run_control

# Time


@pytest.mark.parametrize("said", [None, "", "  "])
def test_without_a_limit_a_run_may_take_for_ever(said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(run_control.HOURS, raising=False)
    if said is not None:
        monkeypatch.setenv(run_control.HOURS, said)
    assert run_control.timeout_seconds() is None


@pytest.mark.parametrize(("said", "seconds"), [("6", 21600), ("0.5", 1800), (" 2 ", 7200), ("1e-3", 3.6)])
def test_the_limit_is_given_in_hours(said: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(run_control.HOURS, said)
    assert run_control.timeout_seconds() == pytest.approx(seconds)


@pytest.mark.parametrize("said", ["0", "-1", "six", "6h", "nan", "1,5"])
def test_a_limit_that_is_no_number_above_0_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(run_control.HOURS, said)
    with pytest.raises(ValueError, match=f"DAE_TIMEOUT_HOURS must be a number of hours above 0, received {said}"):
        run_control.timeout_seconds()


def test_nobody_is_waited_for_longer_than_a_run_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(run_control.HOURS, "6")
    run_control.require_approval_time(None)
    run_control.require_approval_time(5.9)
    for hours in (6, 48):
        with pytest.raises(ConfigError, match=f"approval_hours must be below .* 6 hours .* received {hours}"):
            run_control.require_approval_time(hours)
    monkeypatch.delenv(run_control.HOURS)
    run_control.require_approval_time(48)


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_that_takes_longer_than_its_limit_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(run_control.HOURS, str(0.2 / 3600))

    reached = []

    @flow(name="of-a-test", timeout_seconds=run_control.timeout_seconds())
    def slow() -> None:
        time.sleep(20)
        reached.append("its end")

    state = slow(return_state=True)
    assert (state.name, state.is_failed()) == ("TimedOut", True)
    assert reached == []


# Late runs


@flow(name="of-a-test-on-time")
def on_time() -> str:
    """Do what the real flows do first."""
    if (state := run_control.find_superseding_state()) is not None:
        return state  # type: ignore[return-value]
    return "went ahead"


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def late(client: SyncPrefectClient) -> Iterator[tuple[UUID, list[FlowRun]]]:
    """A deployment whose worker was away for three days, and its daily runs, the oldest first; the next one is of tomorrow."""
    today = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    daily = CronSchedule(cron=f"0 {today.hour} * * *", timezone="UTC")
    deployment = client.create_deployment(
        client.create_flow(on_time), "late", schedules=[DeploymentScheduleCreate(schedule=daily, active=True)]
    )
    asked = {"start_time": str(today - timedelta(days=2, hours=1)), "min_runs": 4, "max_runs": 4}
    asked["end_time"] = str(today + timedelta(days=1, hours=1))
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json=asked)
    runs = sorted(of(client, deployment), key=lambda run: str(run.expected_start_time))
    assert [run.expected_start_time for run in runs] == [today + timedelta(days=day) for day in (-2, -1, 0, 1)]
    assert all(run.auto_scheduled for run in runs)
    yield deployment, runs
    client.delete_deployment(deployment)


def of(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
    return client.read_flow_runs(flow_run_filter=chosen)


def ended(client: SyncPrefectClient, run: FlowRun) -> tuple[str | None, str | None]:
    """Run the flow as a worker would; return name and message of the state it ends in."""
    run_flow(on_time, flow_run=client.read_flow_run(run.id), return_type="state")
    state = client.read_flow_run(run.id).state
    assert state is not None
    return state.name, state.message


def test_outside_of_a_deployment_nothing_is_superseded(prefect_server: None) -> None:
    assert run_control.find_superseding_state() is None
    assert on_time() == "went ahead"


def test_of_late_runs_the_newest_alone_goes_ahead(client: SyncPrefectClient, late: tuple[UUID, list[FlowRun]]) -> None:
    oldest, older, newest, _ = late[1]
    name, message = ended(client, oldest)
    assert name == run_control.SUPERSEDED
    assert "a newer run of this schedule is due as well: " in str(message)
    assert older.name in str(message)
    assert newest.name in str(message)
    state = client.read_flow_run(oldest.id).state
    assert state is not None
    assert state.is_cancelled()
    assert ended(client, older) == (
        run_control.SUPERSEDED,
        f"a newer run of this schedule is due as well: {newest.name}",
    )
    assert ended(client, newest)[0] == "Completed"


@pytest.mark.parametrize(
    ("state", "name"),
    [(Cancelled(), "Completed"), (Failed(), "Completed"), (Completed(), run_control.SUPERSEDED)],
    ids=["cancelled", "failed", "done"],
)
def test_a_newer_run_that_came_to_nothing_supersedes_none(
    client: SyncPrefectClient, late: tuple[UUID, list[FlowRun]], state: object, name: str
) -> None:
    _, older, newest, _ = late[1]
    client.set_flow_run_state(newest.id, state, force=True)  # type: ignore[arg-type]
    assert ended(client, older)[0] == name


def test_what_somebody_asked_for_is_not_superseded_and_supersedes_none(
    client: SyncPrefectClient, late: tuple[UUID, list[FlowRun]]
) -> None:
    deployment, (_, _, newest, _) = late
    yesterday, now = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC)
    before, after = (
        client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=when))
        for when in (yesterday, now)
    )
    assert [ended(client, run)[0] for run in (before, newest, after)] == ["Completed"] * 3


# Refusals


@pytest.mark.usefixtures("prefect_server")
def test_a_refusal_is_a_completed_run_under_a_name_of_its_own(make_result: Callable[..., PipelineResult]) -> None:
    @flow(name="of-a-test")
    def judge(mse: float) -> PipelineResult:
        return run_control.final_state(make_result(mse=mse))

    refused = judge(0.02, return_state=True)
    assert (refused.name, refused.is_completed()) == ("Refused", True)
    assert str(refused.message).startswith("dae version 7 is registered, and the champion stays as it was. ")
    assert "is above 0.0069" in str(refused.message)
    assert refused.result() == judge(0.02) == make_result(mse=0.02)
    passed = judge(0.002, return_state=True)
    assert (passed.name, passed.result()) == ("Completed", make_result(mse=0.002))


@pytest.mark.usefixtures("prefect_server")
def test_a_refusal_in_a_dry_run_says_that_it_was_one(make_result: Callable[..., PipelineResult]) -> None:
    @flow(name="of-a-test")
    def judge() -> PipelineResult:
        return run_control.final_state(make_result(mse=0.02, dry_run=True))

    state = judge(return_state=True)
    assert (state.name, str(state.message).partition(":")[0]) == ("Refused", "Dry run")
