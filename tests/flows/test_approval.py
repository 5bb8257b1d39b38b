"""Promotion that waits for a person: real flow runs that pause, are answered, time out and are cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.exceptions import Abort
from prefect.states import Cancelled
from typer.testing import CliRunner

from dae.cli import app
from dae.config import loading
from dae.config.schema import GateConfig
from dae.promotion import audit_log, registry
from dae.promotion.schemas import PromotionResult
from dae.tracking.client import connect
from flows import approval
from flows.promote import PromotionRequest, promote_version
from flows.train import train_denoiser

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
TINY = [
    "data.limit=300",
    "data.validation=60",
    "data.test_limit=60",
    "train.epochs=1",
    "model.width=8",
    "gate.smoke_test=null",
]
NAME = "dae-smoke"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one version that the gate lets pass, not promoted yet."""
    home = tmp_path_factory.mktemp("approval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        train_denoiser(loading.load(SMOKE, [*TINY, "gate.dry_run=true"]))
    return home


@pytest.fixture
def waiting(
    trained: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[tuple[Future[PromotionResult], UUID]]:
    """A promotion that is waiting for approval, for ten minutes or as asked, and the id of its flow run."""
    monkeypatch.setenv("DAE_HOME", str(trained))
    monkeypatch.setenv("DAE_ACTOR", "ada")
    monkeypatch.setattr(approval, "POLL_SECONDS", 0.2)
    connect()
    policy = GateConfig(
        max_val_mse=0.9,
        clean_input=None,
        beat_noisy_input=False,
        smoke_test=None,
        approval_hours=getattr(request, "param", 600) / 3600,
    )
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(promote_version, PromotionRequest(version="1", model_name=NAME, gate=policy))
        yield future, paused(future)


def paused(future: Future[Any]) -> UUID:
    """Return the id of the flow run that waits."""
    asked = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}})
    with get_client(sync_client=True) as client:
        while not future.done():
            if runs := client.read_flow_runs(flow_run_filter=asked):
                return runs[0].id
            wait([future], timeout=0.2)
    raise AssertionError(f"it did not wait: {future.result()}")


def test_it_is_promoted_once_a_person_approves(waiting: tuple[Future[PromotionResult], UUID]) -> None:
    future, flow_run = waiting
    assert registry.find_champion(NAME) is None
    answered = CliRunner().invoke(app, ["approve", str(flow_run), "--yes", "--comment", "looks fine"])
    assert answered.exit_code == 0, answered.stderr
    assert answered.stdout == f"Approved: flow run {flow_run} continues.\n"
    decision = future.result(timeout=120).version.decision
    assert decision.event == "promoted"
    assert "approved by ada; looks fine" in audit_log.read_entries(NAME)[-1].reason
    assert registry.find_champion(NAME) == "1"
    registry.set_alias(NAME, registry.CHAMPION, None)  # for the tests that come


def test_it_is_refused_by_a_person_and_the_reason_is_kept(waiting: tuple[Future[PromotionResult], UUID]) -> None:
    future, flow_run = waiting
    answered = CliRunner().invoke(app, ["approve", str(flow_run), "--no", "--comment", "blurred"])
    assert answered.exit_code == 0, answered.stderr
    decision = future.result(timeout=120).version.decision
    assert (decision.event, decision.reason) == ("refused", "not approved by ada: blurred")
    assert decision.verdict.promoted
    assert registry.find_champion(NAME) is None
    assert registry.get_version(NAME, "1").tags["verdict"] == "refused"


@pytest.mark.parametrize("waiting", [3], indirect=True)
def test_nobody_answers_and_it_is_refused_in_time(waiting: tuple[Future[PromotionResult], UUID]) -> None:
    future, flow_run = waiting
    decision = future.result(timeout=120).version.decision
    assert (decision.event, decision.reason) == ("refused", "nobody approved it in time")
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run).state
    assert state is not None
    assert state.is_completed()


def test_a_run_that_is_cancelled_while_it_waits_is_an_error_and_decides_nothing(
    waiting: tuple[Future[PromotionResult], UUID],
) -> None:
    future, flow_run = waiting
    before = audit_log.read_entries(NAME)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run, Cancelled(), force=True)
    with pytest.raises(Abort, match="cancelled"):
        future.result(timeout=120)  # long before the ten minutes are over
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run).state
    assert state is not None
    assert state.is_cancelled()
    assert audit_log.read_entries(NAME) == before


def test_a_training_run_that_is_cancelled_while_it_waits_ends_alike_in_mlflow(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAE_HOME", str(trained))
    monkeypatch.setattr(approval, "POLL_SECONDS", 0.2)
    config = loading.load(SMOKE, [*TINY, "gate.approval_hours=1", "tracking.model_name=cancelled"])
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(train_denoiser, config)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(paused(future), Cancelled(), force=True)
        with pytest.raises(Abort, match="cancelled"):
            future.result(timeout=120)
    run = connect().get_run(str(registry.get_version("cancelled", "1").run_id))
    assert run.info.status == "KILLED"


def test_nobody_is_asked_about_a_version_that_is_refused_anyway(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAE_HOME", str(trained))
    policy = GateConfig(max_val_mse=1e-9, beat_noisy_input=False, smoke_test=None, approval_hours=1)
    result = promote_version(PromotionRequest(version="1", model_name=NAME, gate=policy))
    assert result.version.decision.event == "refused"
    assert "is above" in result.version.decision.reason
