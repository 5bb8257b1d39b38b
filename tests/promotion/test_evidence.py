"""A challenger beside the champion: both scored now, on the same frozen pixels, from a real registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dae import storage
from dae.config.schema import ChampionPolicy, ConfigError, GateConfig, NoiseConfig, PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.data.arrays import DataError
from dae.evaluation.scores import evaluate_model
from dae.networks.predict import make_denoiser
from dae.noise.kinds import Gaussian, Speckle
from dae.promotion import registry
from dae.promotion.evidence import CandidateEvaluator
from dae.promotion.schemas import Candidate, Check, GateResult
from dae.schemas import NoisySets
from dae.tracking import log_model, models
from dae.tracking.client import connect
from dae.tracking.models import ModelError
from dae.tracking.runs import open_run
from tasks.ingest import ingest

POLICY = GateConfig(max_val_mse=None, clean_input=None, beat_noisy_input=False, smoke_test=None)


def network(layer: Callable[[Any], Any], size: int | None = None, channels: int = 1) -> keras.Model:
    inputs = keras.Input((size, size, channels))
    return keras.Model(inputs, layer(inputs))


def blur(width: int) -> keras.Model:
    return network(keras.layers.AveragePooling2D(width, strides=1, padding="same"))


@pytest.fixture
def noisy(home: Path, mlflow_store: Path) -> NoisySets:
    """Images of one intensity each, under two kinds of noise."""
    levels = np.random.default_rng(0).uniform(0.2, 0.8, (240, 1, 1))
    np.save(home / "smooth.npy", (levels * np.ones((1, 12, 12))).astype(np.float32))
    config = PipelineConfig.model_validate(
        {"data": {"source": str(home / "smooth.npy"), "validation": 100, "test": 40}}
    ).data
    return noisy_datasets.corrupt_sets(datasets.ingest(config), NoiseConfig(kinds=(Gaussian(), Speckle())))


def version(model: keras.Model, shape: tuple[int, ...] = (12, 12, 1)) -> Candidate:
    """Log a model in a run of its own and register it."""
    with open_run(PipelineConfig(), "none") as run_id:
        model_id, uri = log_model.log_model(run_id, model, np.zeros((1, *shape), np.float32), "dae")
    registry._ensure_model("dae")
    created = connect().create_model_version("dae", uri, run_id, model_id=model_id)
    return Candidate(name="dae", version=str(created.version), run_id=run_id, model_uri=uri)


def make_evaluator(candidate: Candidate, noisy: NoisySets, policy: GateConfig = POLICY) -> CandidateEvaluator:
    scores, _ = evaluate_model(make_denoiser(models.load_model(candidate.model_uri)), noisy, candidate.model_uri)
    return CandidateEvaluator(candidate, scores, noisy, policy)


def find_check(result: GateResult, name: str) -> Check:
    return next(check for check in result.checks if check.name == name)


def test_the_better_model_passes_and_the_worse_one_is_refused_on_the_same_images(noisy: NoisySets) -> None:
    worse, better = version(blur(2)), version(blur(5))
    result = make_evaluator(better, noisy)(worse.version)
    assert result.promoted
    assert result.champion == worse.version
    assert {check.name for check in result.checks} == {
        "vs_champion",
        "vs_champion_gaussian",
        "vs_champion_speckle",
        "vs_champion_gaussian_8bit",
        "vs_champion_speckle_8bit",
    }
    damaged, clean, _ = noisy_datasets.read_block(noisy.validation, slice(None))
    errors = [
        float(np.mean((np.asarray(model.predict_on_batch(damaged), np.float64) - clean) ** 2))
        for model in (blur(5), blur(2))
    ]
    assert f"{errors[0]:.5f} beside {errors[1]:.5f}" in find_check(result, "vs_champion").reason
    assert not make_evaluator(worse, noisy)(better.version).promoted


def test_scores_recorded_for_the_champion_earlier_bear_on_nothing(noisy: NoisySets) -> None:
    champion, challenger = version(blur(2)), version(blur(5))
    registry.set_version_tags("dae", champion.version, {"best_val_mse": "0.0", "val_mse_gaussian": "0.0"})
    assert make_evaluator(challenger, noisy)(champion.version).promoted


def test_a_model_is_no_worse_than_itself_and_no_better_by_a_margin(noisy: NoisySets) -> None:
    first, second = version(blur(3)), version(blur(3))
    assert make_evaluator(second, noisy)(first.version).promoted
    margin = POLICY.model_copy(update={"champion": ChampionPolicy(tolerance=-0.01)})
    assert not make_evaluator(second, noisy, margin)(first.version).promoted


def test_against_a_champion_that_was_a_challenger_at_once_there_is_no_tolerance(noisy: NoisySets) -> None:
    worse, better = version(blur(4)), version(blur(5))
    tolerant = POLICY.model_copy(update={"champion": ChampionPolicy(tolerance=0.9, tolerance_per_kind=None)})
    evaluator = make_evaluator(worse, noisy, tolerant)
    assert evaluator(better.version).promoted
    assert not evaluator(better.version, at_once=True).promoted
    assert evaluator(better.version).promoted
    assert make_evaluator(better, noisy, tolerant)(worse.version, at_once=True).promoted
    margin = tolerant.model_copy(update={"champion": ChampionPolicy(tolerance=-0.9, tolerance_per_kind=None)})
    assert not make_evaluator(better, noisy, margin)(worse.version, at_once=True).promoted


@pytest.mark.parametrize(("rule", "promoted"), [("refuse", False), ("absolute", True)])
def test_a_champion_of_another_shape_or_without_files_is_said_so(noisy: NoisySets, rule: str, promoted: bool) -> None:
    policy = GateConfig.model_validate(
        {
            "max_val_mse": 1,
            "clean_input": None,
            "beat_noisy_input": False,
            "smoke_test": None,
            "champion": {"incomparable": rule},
        }
    )
    colour = version(network(lambda x: x * 1.0, None, 3), (12, 12, 3))
    large = version(network(lambda x: x * 1.0, 64), (64, 64, 1))
    gone = version(blur(3))
    shutil.rmtree(models.download_model(gone.model_uri))
    damaged = version(blur(3))
    (models.download_model(damaged.model_uri) / storage.MODEL).write_bytes(b"no model")
    evaluator = make_evaluator(version(blur(5)), noisy, policy)
    for champion, words in [
        (colour, "it takes images of any size and 3 channels, these are 12x12x1"),
        (large, "it takes images of 64x64x1"),
        (gone, "are gone"),
        (damaged, "cannot be loaded"),
    ]:
        result = evaluator(champion.version)
        assert result.promoted == promoted
        assert promoted or words in result.reasons[0]
        assert promoted or f"version {champion.version}" in result.reasons[0]


def test_without_a_champion_nothing_is_compared(noisy: NoisySets) -> None:
    result = make_evaluator(
        version(blur(3)), noisy, GateConfig(max_val_mse=1, clean_input=None, beat_noisy_input=False, smoke_test=None)
    )(None)
    assert result.promoted
    assert [check.name for check in result.checks] == ["val_mse"]


def test_noisy_images_that_changed_since_are_an_error(noisy: NoisySets) -> None:
    evaluator = make_evaluator(version(blur(3)), noisy)
    pixels = np.load(noisy.validation.path, mmap_mode="r+")
    pixels[0, 0, 0, 0] += 1
    del pixels
    with pytest.raises(DataError, match="SHA-256"):
        evaluator(version(blur(2)).version)


def test_scores_of_another_model_are_an_error(noisy: NoisySets) -> None:
    first, second = version(blur(3)), version(blur(2))
    scores = make_evaluator(first, noisy).scores
    with pytest.raises(ModelError, match="must be those of"):
        CandidateEvaluator(second, scores, noisy, POLICY)


def test_classical_methods_that_are_asked_for_are_measured_in_the_same_run(noisy: NoisySets) -> None:
    policy = POLICY.model_copy(update={"beat_baselines": ("median", "tv")})
    weak = make_evaluator(version(network(lambda x: x * 1.0)), noisy, policy)(None)
    assert [check.name for check in weak.checks if not check.passed] == ["vs_median", "vs_tv"]
    assert "on 100 images" in weak.checks[0].reason
    mean = network(lambda x: x * 0.0 + keras.ops.mean(x, axis=(1, 2), keepdims=True))
    assert make_evaluator(version(mean), noisy, policy)(None).promoted


def test_a_classical_method_that_cannot_be_run_is_refused_before_the_images_are_read() -> None:
    config = PipelineConfig.model_validate(
        {"data": {"source": "mnist", "validation": "test"}, "gate": {"beat_baselines": ["median"]}}
    )
    with pytest.raises(ConfigError, match="must hold images of its own"):
        ingest.fn(config)


@pytest.mark.slow
def test_the_smoke_test_runs_once_for_all_champions(noisy: NoisySets) -> None:
    policy = GateConfig(max_val_mse=1, clean_input=None, beat_noisy_input=False)
    registered = version(blur(3))
    registry.set_version_tags("dae", registered.version, {"model_sha256": models.read_sha256(registered.model_uri[8:])})
    evaluator = make_evaluator(registered, noisy, policy)
    assert evaluator(None).promoted
    first = evaluator.smoke_test
    assert evaluator(version(blur(2)).version).promoted
    assert evaluator.smoke_test is first
