"""The check for staleness as a flow, on a real Prefect server, and the retraining it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound

from dae.config.schema import ConfigError, DataConfig, ModelConfig, PipelineConfig, TrackingConfig
from dae.data import datasets, noisy_datasets
from dae.evaluation.scores import evaluate_model
from dae.monitoring import staleness
from dae.monitoring.staleness import StalenessPolicy
from dae.networks import build
from dae.networks.predict import make_denoiser
from dae.promotion import registry
from dae.schemas import Scores, TrainedModel
from dae.tracking import log_model, run_logging
from dae.tracking.client import FLOW_RUN, connect
from dae.tracking.runs import open_run
from flows.check_drift import StalenessResult, retrain_if_stale
from flows.train import train_denoiser

SIDE = 16
CONFIG = PipelineConfig(
    data=DataConfig(source="own.npy", validation=40, test=8),
    model=ModelConfig(width=4, deep_width=4),
    tracking=TrackingConfig(model_name="watched"),
)
POLICY = StalenessPolicy(model_name="watched", watch=None, deployment="train-denoiser/t-retrain")

pytestmark = pytest.mark.usefixtures("mlflow_store")


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def retrain(client: SyncPrefectClient) -> Iterator[UUID]:
    """The deployment that is asked to retrain."""
    parameters = {"config": CONFIG.model_dump(mode="json")}
    made = client.create_deployment(client.create_flow(train_denoiser), "t-retrain", parameters=parameters)
    yield made
    for run in asked(client, made):
        client.delete_flow_run(run.id)
    client.delete_deployment(made)


def asked(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
    return client.read_flow_runs(flow_run_filter=chosen)


def check(policy: StalenessPolicy = POLICY) -> tuple[State[StalenessResult], StalenessResult]:
    state = retrain_if_stale(policy, return_state=True)
    return state, state.result()


def recorded() -> list[tuple[str, str]]:
    """Return what came of each check that MLflow has, the newest first, and its flow run."""
    client = connect()
    experiment = client.get_experiment_by_name("watched staleness")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return [(run.data.tags["outcome"], run.data.tags[FLOW_RUN]) for run in runs]


def test_without_a_champion_nothing_is_asked_for_and_the_check_is_kept(
    client: SyncPrefectClient, retrain: UUID
) -> None:
    state, result = check()
    assert (state.name, state.message) == ("Completed", "no champion: watched has no champion")
    assert (result.outcome, result.retraining, result.staleness.version) == ("no champion", None, None)
    assert asked(client, retrain) == []
    flow_run = str(state.state_details.flow_run_id)
    assert recorded() == [("no champion", flow_run)]
    (told,) = [
        artifact
        for artifact in client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["staleness"])))
        if str(artifact.flow_run_id) == flow_run
    ]
    assert "# watched: no champion" in str(told.data)
    assert client.read_flow_run(UUID(flow_run)).name == "watched"


def test_a_deployment_that_trains_another_model_is_refused_before_anything_is_done(
    client: SyncPrefectClient, retrain: UUID
) -> None:
    other = POLICY.model_copy(update={"model_name": "another"})
    with pytest.raises(ConfigError, match=r"policy\.deployment must train another, .*t-retrain trains watched"):
        retrain_if_stale(other)
    assert connect().get_experiment_by_name("another staleness") is None


def test_a_deployment_that_is_not_there_is_told_before_anything_is_done(prefect_server: None) -> None:
    with pytest.raises(ObjectNotFound):
        retrain_if_stale(POLICY.model_copy(update={"deployment": "train-denoiser/none"}))
    assert recorded() == []


# With a champion


def tenth(scores: Scores) -> Scores:
    """Return scores as of a model that was ten times as good."""
    kinds = {
        kind: found.model_copy(update={"mse": found.mse / 10}) for kind, found in scores.validation.per_kind.items()
    }
    return scores.model_copy(update={"validation": scores.validation.model_copy(update={"per_kind": kinds})})


@pytest.fixture
def fallen_champion(home: Path) -> str:
    """A champion that does far worse than what was recorded of it."""
    random = np.random.default_rng(0)
    np.save(home / "own.npy", random.integers(0, 256, (120, SIDE, SIDE, 1), np.uint8))
    images = datasets.ingest(CONFIG.data)
    noisy = noisy_datasets.corrupt_sets(images, CONFIG.noise)
    network = build.build_network(CONFIG.model, (SIDE, SIDE, 1))
    with open_run(CONFIG, "none") as run_id:
        run_logging.log_inputs(run_id, images, noisy)
        example = np.zeros((1, SIDE, SIDE, 1), np.float32)
        model_id, uri = log_model.log_model(run_id, network, example, "watched")
        scores, _ = evaluate_model(make_denoiser(network), noisy, uri)
        run_logging.log_scores(run_id, tenth(scores))
    figures = {"epochs": 1, "best_epoch": 1, "best_val_mse": 0.1, "parameters": 1, "seconds": 1.0}
    model = TrainedModel.model_validate({"run_id": run_id, "model_id": model_id, "model_uri": uri, **figures})
    version = registry.register(CONFIG, model, scores, images.digest, noisy).version
    registry.set_alias("watched", registry.CHAMPION, version)
    return version


def test_a_champion_that_drifted_is_trained_again_once(
    client: SyncPrefectClient, retrain: UUID, fallen_champion: str
) -> None:
    _, first = check()
    assert (first.outcome, first.staleness.version) == ("retrain", fallen_champion)
    (run,) = asked(client, retrain)
    assert first.retraining == str(run.id)
    assert (run.tags, run.parent_task_run_id) == (["stale"], None)
    assert PipelineConfig.model_validate(run.parameters["config"]) == CONFIG

    state, second = check()
    assert (second.outcome, second.retraining) == ("cooling down", None)
    assert str(state.message).startswith("cooling down: a retraining was asked for at ")
    assert [each.id for each in asked(client, retrain)] == [run.id]
    assert [outcome for outcome, _ in recorded()] == ["cooling down", "retrain"]
    fired = staleness.last_retraining("watched")
    assert fired is not None
    assert fired.version == fallen_champion

    _, third = check(POLICY.model_copy(update={"cooldown_hours": 0}))
    assert third.outcome == "retrain"
    assert len(asked(client, retrain)) == 2


def test_new_images_that_were_judged_are_trained_on(
    home: Path, client: SyncPrefectClient, retrain: UUID, fallen_champion: str
) -> None:
    from PIL import Image

    (home / "incoming").mkdir()
    for number, image in enumerate(np.load(home / "own.npy")[:20]):
        Image.fromarray(image[..., 0]).save(home / "incoming" / f"{number}.png")
    _, result = check(POLICY.model_copy(update={"watch": "incoming", "min_images": 20}))
    assert result.outcome == "retrain"
    assert result.staleness.images is not None
    (run,) = asked(client, retrain)
    assert run.parameters["config"]["data"]["extra_source"] == "incoming"
