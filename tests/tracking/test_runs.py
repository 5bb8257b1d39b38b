"""What a run that was made before says of itself: which flow run made it, and what it ended with."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from dae.config.schema import PipelineConfig
from dae.promotion import reports
from dae.promotion.schemas import PipelineResult
from dae.tracking import runs
from dae.tracking.client import TrackingError, connect
from dae.tracking.runs import open_run

pytestmark = pytest.mark.usefixtures("mlflow_store")
Make = Callable[..., PipelineResult]


@pytest.fixture
def run_id() -> str:
    """A run that was made by the flow run ``first``."""
    with open_run(PipelineConfig(), "first") as made:
        pass
    return made


def test_in_a_new_store_no_flow_run_made_a_run() -> None:
    assert runs.find_run_of_flow_run("first") is None


def test_a_run_is_found_by_its_flow_run_alone(run_id: str) -> None:
    with open_run(PipelineConfig(), "second") as other:
        assert runs.find_run_of_flow_run("second") == other  # while it goes on, too
    assert runs.find_run_of_flow_run("first") == run_id
    assert runs.find_run_of_flow_run("third") is None
    assert (runs.flow_run_of(run_id), runs.flow_run_of(other)) == ("first", "second")


def test_a_run_that_was_resumed_is_that_of_the_later_flow_run(run_id: str) -> None:
    connect().set_terminated(run_id, "KILLED")
    with open_run(runs.read_resumable_config(run_id), "later"):
        pass
    assert (runs.find_run_of_flow_run("later"), runs.find_run_of_flow_run("first")) == (run_id, None)


def test_what_a_run_ended_with_is_read_as_it_was_logged(run_id: str, make_result: Make) -> None:
    result = make_result(run_id=run_id, event="refused", reason="not approved by grace: «blurred»")
    reports.log_result(result)
    assert reports.read_result(run_id) == result


def test_a_score_of_no_images_stays_no_number(run_id: str, make_result: Make) -> None:
    result = make_result(run_id=run_id, mse=math.nan)
    reports.log_result(result)
    found = reports.read_result(run_id)
    assert math.isnan(found.scores.validation.pooled.mse)
    assert math.isnan(found.scores.test.per_kind["poisson"].mse)
    assert found.scores.validation.pooled_nothing == result.scores.validation.pooled_nothing
    assert found.version.verdict.reasons == result.version.verdict.reasons


def test_a_run_that_came_to_no_end_and_one_that_never_was_have_no_result(run_id: str) -> None:
    with pytest.raises(TrackingError, match=f"run {run_id} holds no result.json"):
        reports.read_result(run_id)
    with pytest.raises(TrackingError, match="no run 0000"):
        reports.read_result("0" * 32)
