from __future__ import annotations

import keras
import numpy as np
import pytest

from dae.config.schema import ModelConfig
from dae.networks import build, predict


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A network whose every weight counts, unlike in a new one."""
    built = build.build_network(ModelConfig(width=4, deep_width=4), (8, 8, 1))
    rng = np.random.default_rng(0)
    built.set_weights([rng.normal(0, 0.2, weight.shape).astype(np.float32) for weight in built.get_weights()])
    return built


def test_an_image_is_restored_the_same_however_many_come_with_it(model: keras.Model) -> None:
    denoise = predict.make_denoiser(model)
    noisy = np.random.default_rng(1).random((predict.BATCH + 3, 8, 9, 1), np.float32)
    together = denoise(noisy)
    assert together.shape == noisy.shape
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together[:2], denoise(noisy[:2]))
    np.testing.assert_array_equal(together[-2:], denoise(noisy[-2:]))


def test_the_images_are_restored_as_the_model_restores_them(model: keras.Model) -> None:
    noisy = np.random.default_rng(2).normal(0.5, 0.5, (5, 12, 12, 1)).astype(np.float32)
    np.testing.assert_allclose(predict.make_denoiser(model)(noisy), model.predict_on_batch(noisy), atol=1e-5)


def test_no_images_are_restored_to_none(model: keras.Model) -> None:
    assert predict.make_denoiser(model)(np.zeros((0, 8, 8, 1), np.float32)).shape == (0, 8, 8, 1)
