from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import pytest

from dae.config import loading
from dae.config.schema import ConfigError, ModelConfig, PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.networks import build
from dae.schemas import ImageSets, NoisySets
from dae.training import fit

Prepared = tuple[PipelineConfig, ImageSets, NoisySets]
CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
NETWORKS = [ModelConfig(width=8, deep_width=8), ModelConfig(architecture="article")]


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Prepared]:
    y, x = np.mgrid[0:12, 0:12] / 11
    phase = np.random.default_rng(0).random((300, 1, 1)) * 6
    np.save(tmp_path / "waves.npy", np.rint(127 + 127 * np.sin(phase + 5 * x + 3 * y)).astype(np.uint8))

    def prepared(precision: str, *settings: str) -> Prepared:
        small = ["data.validation=40", "data.test=40", "model.width=8", "model.deep_width=8", "model.deep_blocks=1"]
        small += ["train.epochs=3", "train.steps_per_epoch=null", f"train.precision={precision}", *settings]
        config = loading.load(settings=[f"data.source={tmp_path / 'waves.npy'}", *small])
        images = datasets.ingest(config.data)
        return config, images, noisy_datasets.corrupt_sets(images, config.noise)

    return prepared


def curve(history: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(row["train_loss"], row["val_mse"]) for row in history]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.architecture)
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_layers_compute_in_the_lower_type_and_weights_and_outputs_stay_float32(
    network: ModelConfig, precision: str
) -> None:
    model = build.build_network(network, (28, 28, 1), precision)
    convolutions = [layer for layer in model.layers if isinstance(layer, CONVOLUTIONS)]
    *inner, _ = convolutions
    assert {layer.compute_dtype for layer in inner} == {precision.removeprefix("mixed_")}
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model.output.dtype == "float32"
    assert model.predict_on_batch(np.zeros((2, 28, 28, 1), np.float32)).dtype == np.float32


def test_a_precision_does_not_outlive_its_network() -> None:
    build.build_network(NETWORKS[0], (28, 28, 1), "mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    after = build.build_network(NETWORKS[0], (28, 28, 1))
    assert {layer.compute_dtype for layer in after.layers} == {"float32"}


def test_the_configuration_names_the_precision_and_refuses_another() -> None:
    config = loading.load(settings=["train.precision=mixed_bfloat16"])
    assert loading.validate(config.model_dump(mode="json")) == config
    assert config.digest != PipelineConfig().digest
    with pytest.raises(ConfigError, match=r"train\.precision: .*'float16'"):
        loading.load(settings=["train.precision=float16"])


@pytest.mark.slow
def test_training_in_bfloat16_restores_better_than_doing_nothing(
    prepare: Callable[..., Prepared], tmp_path: Path
) -> None:
    prepared = prepare("mixed_bfloat16", "train.epochs=8", "train.batch_size=32")
    _, history = fit.fit_network(*prepared, tmp_path / "checkpoint")
    damaged, clean, _ = noisy_datasets.read_block(prepared[2].validation, slice(None))
    assert min(row["val_mse"] for row in history) < np.mean((np.clip(damaged, 0, 1) - clean) ** 2) / 2


@pytest.mark.slow
def test_float16_scales_its_loss_and_resumes_where_it_was(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    """The scale of the loss is part of the optimizer's state, so an interrupted training ends as an undisturbed one."""
    prepared = prepare("mixed_float16")
    assert isinstance(fit.compile_model(*prepared[:2]).optimizer, keras.optimizers.LossScaleOptimizer)

    def stop(epoch: int, row: Mapping[str, float]) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit.fit_network(*prepared, tmp_path / "stopped", stop)
    resumed, history = fit.fit_network(*prepared, tmp_path / "stopped")
    undisturbed, expected = fit.fit_network(*prepared, tmp_path / "undisturbed")
    assert curve(history) == curve(expected)
    for first, second in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
