"""An image in tiles is restored as it is whole, though the network looks at the whole of what it is given."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from dae.config.schema import ModelConfig
from dae.inference import global_features
from dae.inference.denoiser import ImageDenoiser
from dae.networks import autoencoder, build
from dae.schemas import Images

RNG = np.random.default_rng(0)


def network(channels: int = 1) -> keras.Model:
    """A network whose every weight counts, the global features above all."""
    model = build.build_network(ModelConfig(width=4, deep_width=4), (28, 28, channels))
    draw = np.random.default_rng(1)
    model.set_weights([draw.normal(0, 0.3, weight.shape).astype(np.float32) for weight in model.get_weights()])
    return model


def halves(channels: int) -> Images:
    """Flat grey under noise on the left, texture on the right."""
    y, x = np.mgrid[0:256, 0:512].astype(np.float32)
    clean = np.where(x < 256, 0.4, 0.5 + 0.4 * np.sign(np.sin(x / 3) * np.sin(y / 4)))
    return (clean[..., None] + np.random.default_rng(2).normal(0, 0.1, (*clean.shape, channels))).astype(np.float32)


def alone(denoiser: ImageDenoiser) -> ImageDenoiser:
    """Return it as it would be if each tile were left to itself."""
    denoiser.__dict__["_pooled"] = None
    return denoiser


def levelling(channels: int) -> keras.Model:
    """A network that takes from each channel its mean over the whole of what it is given."""
    inputs = keras.Input((None, None, channels))
    means = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, inputs - keras.layers.Reshape((1, 1, channels))(means))


@pytest.mark.parametrize(("model_channels", "channels"), [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_tiles_are_restored_as_in_the_whole_image(model_channels: int, channels: int) -> None:
    model, image = levelling(model_channels), halves(channels)
    whole = ImageDenoiser(model, "m", tile=1024)(image)
    np.testing.assert_allclose(ImageDenoiser(model, "m", tile=128)(image), whole, atol=0.01)
    assert np.abs(alone(ImageDenoiser(model, "m", tile=128))(image) - whole).max() > 0.04


def test_features_of_tiles_give_what_the_network_gives() -> None:
    model = network()
    cut = global_features.PooledModel(model)
    tiles = RNG.random((3, 40, 52, 1), np.float32)
    for tile in tiles:
        found = cut.restore(tile[None], cut.mean([tile[None]], 1))
        np.testing.assert_allclose(found, model.predict_on_batch(tile[None]), atol=1e-5)


def test_a_model_can_be_saved_after_it_was_put_to_tiles(tmp_path: object) -> None:
    model = network()
    ImageDenoiser(model, "m", tile=64)(RNG.random((100, 100), np.float32))
    model.save(f"{tmp_path}/model.keras")
    assert keras.saving.load_model(f"{tmp_path}/model.keras").count_params() == model.count_params()


def test_a_network_without_global_pooling_has_none() -> None:
    assert not global_features.pools_globally(autoencoder.build_autoencoder())
    assert global_features.pools_globally(network())
