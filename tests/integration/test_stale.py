"""The check for staleness, as it is deployed: it fires on drifted images, stays quiet on the usual ones, and cools down."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling

from dae.data.sources import MNIST

from .conftest import Team, flow_run_id, wait

SETTINGS = ("--set", "policy.min_images=50")


def usual(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image


def inverted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return 255 - image


def stripes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a pattern without a like, which a network for strokes takes for noise."""
    return np.where(np.indices(image.shape).sum(axis=0) % 2, 90 + image // 4, 160 - image // 4).astype(np.uint8)


def drop(team: Team, prefix: str, start: int, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = usual) -> None:
    """Put 120 images that no training has seen into the watched folder."""
    with np.load(MNIST) as archive:
        images = archive["x_train"][50_000 + start : 50_120 + start]
    folder = team.home / "incoming"
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(change(image)).save(folder / f"{prefix}{number:03}.png")


def checked(team: Team, *more: str) -> str:
    """Run the check and return what it came to."""
    done = team.dae("trigger", "retrain-if-stale", *SETTINGS, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(team.flow_run(flow_run_id(done.stdout)).state.message)  # type: ignore[union-attr]


def waited_for_in_vain(team: Team) -> str:
    """Run the check, wait for less than it takes, and return what it came to all the same."""
    late = team.dae("trigger", "retrain-if-stale", *SETTINGS, "--timeout", "0.01")
    assert late.returncode == 3, late.stdout + late.stderr
    assert "the run continues" in late.stdout
    ended = wait(lambda: team.ended(flow_run_id(late.stdout)), 300)
    assert ended.state_name == "Completed", ended.state
    return str(ended.state.message)


def stop(team: Team, run_id: str) -> None:
    """Cancel a run once it has a process: before that nobody would see to it."""
    wait(lambda: team.flow_run(run_id).state_type == StateType.RUNNING or team.ended(run_id), 300)
    with team.prefect() as client:
        client.set_flow_run_state(UUID(run_id), Cancelling())
    wait(lambda: team.ended(run_id), 300)


def retrainings(team: Team) -> list[Any]:
    with team.prefect() as client:
        return list(client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["stale"]))))


@pytest.fixture
def incoming(team: Team) -> Path:
    folder = team.home / "incoming"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def test_it_fires_on_drift_stays_quiet_on_the_same_data_and_cools_down(team: Team, incoming: Path) -> None:
    if team.champion("dae") is None:
        first = team.dae("trigger", "retrain")
        assert first.returncode == 0, first.stdout + first.stderr
    champion = team.champion("dae")
    before = len(retrainings(team))

    assert waited_for_in_vain(team).startswith("fresh: ")  # nothing was dropped
    drop(team, "usual", 0)
    assert checked(team).startswith("fresh: ")
    assert len(retrainings(team)) == before

    drop(team, "inverted", 200, change=inverted)
    fired = checked(team)
    assert fired.startswith("retrain: "), fired
    (asked,) = retrainings(team)[: len(retrainings(team)) - before]
    assert asked.parameters["config"]["data"]["extra_source"] == "incoming"
    ended = wait(lambda: team.ended(str(asked.id)), 600)
    assert ended.state_name in ("Completed", "Refused"), ended.state
    assert (team.champion("dae") != champion) == (ended.state_name == "Completed")

    shutil.rmtree(incoming)
    drop(team, "stripes", 400, change=stripes)  # of which neither champion can know
    again = checked(team)
    assert again.startswith("cooling down: "), again
    assert len(retrainings(team)) == before + 1
    later = checked(team, "--set", "policy.cooldown_hours=0")
    assert later.startswith("retrain: "), later
    (asked,) = retrainings(team)[: len(retrainings(team)) - before - 1]
    stop(team, str(asked.id))  # that it trains on what is new was seen above

    outcomes = [run.data.tags["outcome"] for run in team.runs() if "outcome" in run.data.tags]
    assert sorted(outcomes) == ["cooling down", "fresh", "fresh", "retrain", "retrain"]


def test_an_image_that_cannot_be_read_is_named_and_nothing_is_retrained(team: Team, incoming: Path) -> None:
    drop(team, "usual", 0)
    (incoming / "broken.png").write_bytes(b"no image")
    before = len(retrainings(team))
    done = team.dae("trigger", "retrain-if-stale", *SETTINGS)
    assert done.returncode == 1
    assert "broken.png" in done.stdout
    assert len(retrainings(team)) == before
