from __future__ import annotations

import math
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dae.config import loading
from dae.config.schema import PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.schemas import ImageSets, NoisySets
from dae.training import fit
from dae.training.checkpoint import Checkpoint, CheckpointError
from dae.training.optimizers import Muon

Prepared = tuple[PipelineConfig, ImageSets, NoisySets]
SMALL = [
    "data.validation=40",
    "data.test=40",
    "model.width=8",
    "model.deep_width=8",
    "model.deep_blocks=1",
    "train.epochs=4",
    "train.batch_size=32",
    "train.steps_per_epoch=null",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("waves")
    y, x = np.mgrid[0:12, 0:12] / 11
    phase = np.random.default_rng(0).random((300, 1, 1)) * 6
    np.save(tmp_path / "waves.npy", np.rint(127 + 127 * np.sin(phase + 5 * x + 3 * y)).astype(np.uint8))
    return tmp_path / "waves.npy"


@pytest.fixture
def prepare(source: Path) -> Callable[..., Prepared]:
    def prepared(*settings: str) -> Prepared:
        config = loading.load(settings=[f"data.source={source}", *SMALL, *settings])
        images = datasets.ingest(config.data)
        return config, images, noisy_datasets.corrupt_sets(images, config.noise)

    return prepared


@dataclass(frozen=True)
class Fitted:
    """What came of one training as configured, and the checkpoint it left."""

    model: Any
    history: list[dict[str, float]]
    checkpoint: Path


@pytest.fixture(scope="module")
def fitted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    home = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(home))
        config = loading.load(settings=[f"data.source={source}", *SMALL])
        images = datasets.ingest(config.data)
        noisy = noisy_datasets.corrupt_sets(images, config.noise)
        return Fitted(*fit.fit_network(config, images, noisy, home / "checkpoint"), home / "checkpoint")


def curve(history: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(row["train_loss"], row["val_mse"]) for row in history]


def pixels(prepared: Prepared, indices: range, first_epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    batches = fit.NoisyBatches(*prepared, first_epoch=first_epoch)
    noisy, clean = zip(*(batches[index] for index in indices), strict=True)
    return np.concatenate(noisy), np.concatenate(clean)


@pytest.mark.parametrize("variance", ["0.1", "{low: 0.01, high: 0.2}"], ids=["number", "range"])
def test_training_noise_is_the_same_whatever_the_batch_size(prepare: Callable[..., Prepared], variance: str) -> None:
    settings = ("train.drop_last=false", f"noise.kinds.0.variance={variance}")
    small = pixels(prepare("train.batch_size=20", *settings), range(11))
    large = pixels(prepare("train.batch_size=55", *settings), range(4))
    for first, second in zip(small, large, strict=True):
        assert first.shape == (220, 12, 12, 1)
        np.testing.assert_array_equal(first, second)


def test_training_noise_is_fresh_every_epoch(prepare: Callable[..., Prepared]) -> None:
    prepared = prepare(
        "train.drop_last=false", "train.clean_share=0", "noise.kinds=[{kind: gaussian}]", "noise.file_share=0"
    )
    steps = fit.NoisyBatches(*prepared).steps
    residuals = []
    for epoch in (0, 1):
        noisy, clean = pixels(prepared, range(epoch * steps, (epoch + 1) * steps))
        residuals.append(np.sort((noisy - clean)[:, 5, 5, 0]))
    assert not np.isclose(residuals[0], residuals[1], atol=1e-6).any()
    assert residuals[0].std() == pytest.approx(residuals[1].std(), rel=0.2)


def test_every_training_image_is_seen_once_an_epoch(prepare: Callable[..., Prepared]) -> None:
    prepared = prepare("train.drop_last=false", "train.page_share=0")
    steps = fit.NoisyBatches(*prepared).steps
    everything = np.sort(datasets.read_images(prepared[1].train).reshape(220, -1), axis=0)
    for epoch in (0, 1):
        _, clean = pixels(prepared, range(epoch * steps, (epoch + 1) * steps))
        np.testing.assert_array_equal(np.sort(clean.reshape(220, -1), axis=0), everything)


def test_frozen_noise_stays_with_its_image(prepare: Callable[..., Prepared]) -> None:
    prepared = prepare("noise.training=frozen", "train.drop_last=false")
    steps = fit.NoisyBatches(*prepared).steps
    first, second = (pixels(prepared, range(e * steps, (e + 1) * steps))[0].reshape(220, -1) for e in (0, 1))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(second, axis=0))


def test_a_batch_depends_on_its_number_alone(prepare: Callable[..., Prepared]) -> None:
    prepared = prepare()
    steps = fit.NoisyBatches(*prepared).steps
    straight = pixels(prepared, range(2 * steps, 3 * steps))
    resumed = pixels(prepared, range(steps), first_epoch=2)
    backwards = pixels(prepared, range(3 * steps - 1, 2 * steps - 1, -1))
    np.testing.assert_array_equal(straight[0], resumed[0])
    np.testing.assert_array_equal(np.sort(straight[0].ravel()), np.sort(backwards[0].ravel()))


def test_the_epochs_follow_one_another_in_fit(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    """Keras asks for the batches ahead of time; what it trains on must still be each epoch's own noise."""
    prepared = prepare("train.learning_rate=1e-30", "train.schedule=constant", "train.epochs=2")
    model, history = fit.fit_network(*prepared, tmp_path / "checkpoint")
    steps = fit.NoisyBatches(*prepared).steps
    for epoch, row in enumerate(history):
        noisy, clean = pixels(prepared, range(epoch * steps, (epoch + 1) * steps))
        expected = float(np.mean(np.square(model.predict_on_batch(noisy) - clean), dtype=np.float64))
        assert row["train_loss"] == pytest.approx(expected, rel=1e-4)


def test_same_config_and_seed_give_the_same_curve_to_the_last_digit_whatever_was_built_before(
    prepare: Callable[..., Prepared], fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that Keras counts up, ..._9 and ..._10, change their order where they gain a digit.

    And other threads draw random numbers of Python's meanwhile, as Prefect's do.
    """
    monkeypatch.setattr(random, "randint", lambda low, high: low)
    while not re.fullmatch(r"dense_9+6", keras.layers.Dense(1).name):
        pass
    again = fit.fit_network(*prepare(), tmp_path / "again")[1]
    assert curve(again) == curve(fitted.history)
    assert len(again) == 4


@pytest.mark.slow
def test_another_seed_gives_another_curve(prepare: Callable[..., Prepared], fitted: Fitted, tmp_path: Path) -> None:
    other = fit.fit_network(*prepare("train.seed=1", "train.epochs=1"), tmp_path / "other")[1]
    assert curve(other)[0] != curve(fitted.history)[0]


@pytest.mark.slow
def test_the_best_epoch_is_restored(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    config, images, noisy = prepare("train.learning_rate=0.03", "train.schedule=constant", "train.epochs=6")
    model, history = fit.fit_network(config, images, noisy, tmp_path / "checkpoint")
    values = [row["val_mse"] for row in history]
    assert fit.compute_validation_mse(model, noisy.validation) == min(values)


@pytest.mark.slow
def test_patience_stops_and_a_stopped_training_does_not_go_on(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    prepared = prepare("train.learning_rate=1e-30", "train.schedule=constant", "train.patience=2", "train.epochs=9")
    _, history = fit.fit_network(*prepared, tmp_path / "checkpoint")
    assert len(history) == 3
    _, again = fit.fit_network(*prepared, tmp_path / "checkpoint")
    assert again == history


def test_divergence_is_an_error(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    prepared = prepare("train.learning_rate=1e30", "train.schedule=constant")
    with pytest.raises(fit.TrainingDivergedError, match="must be finite"):
        fit.fit_network(*prepared, tmp_path / "checkpoint")


def test_validation_mse_is_that_of_the_predictions(prepare: Callable[..., Prepared], fitted: Fitted) -> None:
    damaged, clean, _ = noisy_datasets.read_block(prepare()[2].validation, slice(None))
    difference = fitted.model.predict_on_batch(damaged).astype(np.float64) - clean
    best = min(row["val_mse"] for row in fitted.history)  # whose weights are restored
    assert best == pytest.approx(np.mean(difference**2), rel=1e-6)


KILLED = """
import os, signal, sys
from pathlib import Path
from dae import runtime
runtime.configure()
from dae.config import loading
from dae.data import noisy_datasets, datasets
from dae.training import fit
config = loading.load(settings=sys.argv[2:])
images = datasets.ingest(config.data)
noisy = noisy_datasets.corrupt_sets(images, config.noise)
def report(epoch, row):
    if epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
fit.fit_network(config, images, noisy, Path(sys.argv[1]), report)
"""


@pytest.mark.slow
def test_a_killed_training_resumes_and_ends_as_an_undisturbed_one(
    prepare: Callable[..., Prepared], tmp_path: Path, source: Path, fitted: Fitted
) -> None:
    prepared = prepare()
    settings = [f"data.source={source}", *SMALL]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), *settings]
    killed = subprocess.run(command, env=os.environ, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(Checkpoint.open(tmp_path / "killed", prepared[0].digest).history) == 2

    reported: list[int] = []
    resumed, history = fit.fit_network(*prepared, tmp_path / "killed", lambda epoch, row: reported.append(epoch))
    assert curve(history) == curve(fitted.history)
    assert reported == [0, 1, 2, 3]
    for first, second in zip(resumed.get_weights(), fitted.model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_checkpoint_of_another_configuration_is_refused(prepare: Callable[..., Prepared], fitted: Fitted) -> None:
    with pytest.raises(CheckpointError, match="under its own configuration"):
        fit.fit_network(*prepare("train.epochs=2"), fitted.checkpoint)


def test_a_damaged_checkpoint_is_an_error(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text('{"history": [')
    with pytest.raises(CheckpointError, match=r"state\.json: must be the state of a training"):
        fit.fit_network(*prepare(), tmp_path / "checkpoint")


def test_the_cosine_schedule_ends_at_zero(prepare: Callable[..., Prepared]) -> None:
    config, images, _ = prepare()
    model = fit.compile_model(config, images)
    steps = config.train.epochs * fit.steps_per_epoch(config.train, images.train.count)
    schedule = model.optimizer._learning_rate
    assert isinstance(schedule, keras.optimizers.schedules.CosineDecay)
    warmup = min(config.train.warmup_steps, steps // 2)
    assert float(schedule(0)) == 0
    assert math.isclose(float(schedule(warmup)), config.train.learning_rate, rel_tol=1e-6)
    assert float(schedule(steps)) < 1e-9


def test_an_epoch_of_fewer_steps_goes_through_the_same_batches(prepare: Callable[..., Prepared]) -> None:
    passes = pixels(prepare(), range(12))
    short = prepare("train.steps_per_epoch=4")
    pieces = [pixels(short, range(4), first_epoch=epoch) for epoch in range(3)]
    for whole, parts in zip(passes, zip(*pieces, strict=True), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_the_optimizer_is_the_configured_one(prepare: Callable[..., Prepared]) -> None:
    found = {name: fit.compile_model(*prepare(f"train.optimizer={name}")[:2]).optimizer for name in ("muon", "adam")}
    assert isinstance(found["muon"], Muon)
    assert type(found["adam"]) is keras.optimizers.Adam


def test_muon_learns_every_direction_of_a_kernel_at_the_same_rate_and_the_rest_as_adam_does() -> None:
    kernel = keras.Variable(np.zeros((3, 3, 4, 6), np.float32), name="kernel")
    bias = keras.Variable(np.zeros(6, np.float32), name="bias")
    optimizer = Muon(0.01, weight_decay=None, adam_weight_decay=None)
    optimizer.build([kernel, bias])
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(3, 3, 4, 6)) * 10.0 ** np.linspace(-1, 0.5, 6), rng.normal(size=6)]
    optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32") for gradient in gradients])
    step = -np.asarray(kernel).reshape(36, 6)
    lengths = np.linalg.svd(step, compute_uv=False)
    assert lengths.max() / lengths.min() < 3  # of the gradient it is above 20
    assert np.sqrt(np.mean(step**2)) == pytest.approx(0.01 * 0.2, rel=0.4)
    np.testing.assert_allclose(np.abs(np.asarray(bias)), 0.01, rtol=1e-3)


def test_patches_are_not_cut_from_pages(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 48), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    prepared = prepare(
        f"data.source={tmp_path / 'photos'}",
        "data.patch=16",
        "data.validation=0.2",
        "data.limit=null",
        "train.page_share=1",
        "train.clean_share=0",
        "train.batch_size=16",
    )
    _, clean = fit.NoisyBatches(*prepared)[0]
    patches = datasets.read_images(prepared[1].train)
    assert all((patches == patch).all(axis=(1, 2, 3)).any() for patch in clean)
