from __future__ import annotations

import numpy as np
import pytest

from dae import architectures, registry, tracking
from dae.config import ModelConfig, PipelineConfig
from dae.records import (
    ImageSet,
    ModelVersion,
    NoisySet,
    NoisySets,
    Quality,
    Scores,
    SplitScores,
    TrainedModel,
    Verdict,
)

pytestmark = pytest.mark.usefixtures("mlflow_store")

CLEAN = ImageSet(path="clean.npy", sha256="c" * 64, count=2, height=8, width=8, channels=1)
NOISY = NoisySet(clean=CLEAN, path="noisy.npy", kinds_path="kinds.npy", kinds=("gaussian",), sha256="n" * 64)
QUALITY = Quality(mse=0.001, psnr=30.0, ssim=0.9, count=2)
SPLIT = SplitScores(
    pooled=QUALITY, pooled_nothing=QUALITY, per_kind={"gaussian": QUALITY}, per_kind_nothing={"gaussian": QUALITY}
)


def trained() -> TrainedModel:
    with tracking.run(PipelineConfig(), "none") as run_id:
        model = architectures.build(ModelConfig(width=4, deep_width=4), (8, 8, 1))
        model_id, uri = registry.log_model(run_id, model, np.zeros((1, 8, 8, 1), np.float32), "dae")
    return TrainedModel(
        run_id=run_id,
        model_id=model_id,
        model_uri=uri,
        epochs=1,
        best_epoch=1,
        best_val_mse=0.1,
        parameters=1,
        seconds=1,
    )


def registered(model: TrainedModel, *, promoted: bool, scored: str | None = None) -> ModelVersion:
    scores = Scores(model_uri=scored or model.model_uri, validation=SPLIT, test=SPLIT, images_per_second=1.0)
    verdict = Verdict(promoted=promoted, checks=(), reasons=() if promoted else ("too bad",))
    sets = NoisySets(train=None, validation=NOISY, test=NOISY)
    return registry.register(PipelineConfig(), model, scores, verdict, "d" * 64, sets)


def test_the_champion_is_exactly_the_promoted_version_whatever_is_registered_later() -> None:
    assert registry.champion("dae") is None
    first = registered(trained(), promoted=True)
    assert first.aliases == ("champion",)
    second = registered(trained(), promoted=False)
    assert second.aliases == ()
    assert registry.champion("dae") == first.version == "1"
    third = registered(trained(), promoted=True)
    assert registry.champion("dae") == third.version == "3"
    found = tracking.connect().get_model_version_by_alias("dae", "champion")
    assert found.source == third.model_uri


def test_a_version_says_what_it_is() -> None:
    model = trained()
    version = registered(model, promoted=False)
    found = tracking.connect().get_model_version("dae", version.version)
    assert found.run_id == model.run_id
    assert found.tags["verdict"] == "refused"
    assert found.tags["verdict_reasons"] == "too bad"
    assert found.tags["data_digest"] == "d" * 64
    assert found.tags["noise_digest.validation"] == "n" * 64
    assert found.tags["config_digest"] == PipelineConfig().digest
    assert float(found.tags["best_val_mse"]) == float(found.tags["val_mse_gaussian"]) == 0.001


def test_scores_of_another_model_register_nothing() -> None:
    with pytest.raises(registry.RegistryError, match="must be those of"):
        registered(trained(), promoted=True, scored="models:/m-other")
    assert tracking.connect().search_registered_models() == []
