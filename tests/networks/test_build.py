from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from dae.config.schema import ConfigError, ModelConfig
from dae.networks import build
from dae.networks.build import require_image_shape

ARTICLE_TABLE = [
    ("Conv2D", (24, 24, 64), 1664),
    ("MaxPooling2D", (12, 12, 64), 0),
    ("Conv2D", (10, 10, 128), 73856),
    ("MaxPooling2D", (5, 5, 128), 0),
    ("Conv2D", (3, 3, 256), 295168),
    ("MaxPooling2D", (1, 1, 256), 0),
    ("Conv2DTranspose", (3, 3, 256), 590080),
    ("Conv2DTranspose", (5, 5, 128), 295040),
    ("UpSampling2D", (10, 10, 128), 0),
    ("Conv2DTranspose", (12, 12, 64), 73792),
    ("UpSampling2D", (24, 24, 64), 0),
    ("Conv2DTranspose", (28, 28, 1), 1601),
]
SIZES = [(8, 8), (9, 13), (28, 28), (31, 40), (10, 11)]


def small_unet(channels: int = 1) -> keras.Model:
    keras.utils.set_random_seed(1)
    return build.build_network(ModelConfig(width=8, deep_width=8), (28, 28, channels))


def test_article_has_the_articles_layers_and_parameters() -> None:
    model = build.build_network(ModelConfig(architecture="article"), (28, 28, 1))
    table = [(type(layer).__name__, layer.output.shape[1:], layer.count_params()) for layer in model.layers[1:]]
    assert table == ARTICLE_TABLE
    assert model.count_params() == 1_331_201
    activations = [layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")]
    assert activations == ["relu"] * 7


def test_article_refuses_another_image_shape() -> None:
    with pytest.raises(ConfigError, match="28x28x1, received 32x32x1"):
        build.build_network(ModelConfig(architecture="article"), (32, 32, 1))


def test_unet_refuses_images_below_8_pixels() -> None:
    with pytest.raises(ConfigError, match="at least 8 pixels high and wide, received 7x28x1"):
        build.build_network(ModelConfig(), (7, 28, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_unet_takes_any_size_and_gives_finite_images_of_it(size: tuple[int, int], channels: int) -> None:
    noisy = np.random.default_rng(0).normal(0.5, 0.5, (2, *size, channels)).astype(np.float32)
    restored = small_unet(channels).predict_on_batch(noisy)
    assert restored.shape == noisy.shape
    assert np.isfinite(restored).all()


def test_unet_restores_an_image_the_same_in_any_company() -> None:
    noisy = np.random.default_rng(0).random((5, 20, 24, 1), np.float32)
    model = small_unet()
    np.testing.assert_allclose(model.predict_on_batch(noisy)[:1], model.predict_on_batch(noisy[:1]), atol=1e-6)


def test_unet_does_not_see_its_padding_as_image() -> None:
    """What lies beyond the border is made from the image: a constant image gives the same at any size."""
    model = small_unet()
    values = [model.predict_on_batch(np.full((1, *size, 1), 0.5, np.float32)) for size in SIZES]
    assert all(np.isfinite(value).all() for value in values)


@pytest.mark.slow
def test_unet_opens_in_plain_keras_in_safe_mode(tmp_path: Path) -> None:
    """No Lambda and no class of ours: a process that has never heard of this package gives the same outputs."""
    model = small_unet()
    assert not [layer for layer in model.layers if isinstance(layer, keras.layers.Lambda)]
    noisy = np.random.default_rng(0).random((2, 13, 18, 1), np.float32)
    model.save(tmp_path / "unet.keras")
    np.save(tmp_path / "noisy.npy", noisy)
    script = (
        "import keras, numpy, sys;"
        "model = keras.saving.load_model('unet.keras', safe_mode=True);"
        "assert 'dae' not in sys.modules;"
        "numpy.save('restored.npy', model.predict_on_batch(numpy.load('noisy.npy')))"
    )
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "restored.npy"), model.predict_on_batch(noisy))


def test_same_seed_gives_the_same_weights() -> None:
    for first, second in zip(small_unet().get_weights(), small_unet().get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("config", [ModelConfig(width=4, deep_width=4), ModelConfig(architecture="article")])
def test_the_first_weights_depend_on_the_seed_alone(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(seed: int | None) -> bytes:
        return b"".join(part.tobytes() for part in build.build_network(config, (28, 28, 1), seed=seed).get_weights())

    keras.utils.set_random_seed(3)
    asked, expected = weights(3), weights(None)
    monkeypatch.setattr(random, "randint", lambda low, high: low)  # as if another thread had drawn meanwhile
    assert weights(3) == asked == expected
    assert weights(4) != asked
    assert weights(None) != asked


def shaken_unet(channels: int = 1) -> keras.Model:
    """A network of arbitrary weights: what it leaves alone then, it leaves alone by its making, not by training."""
    model = small_unet(channels)
    draw = np.random.default_rng(4)
    model.set_weights([weights + draw.normal(0, 0.3, weights.shape) for weights in model.get_weights()])
    return model


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [-2, 0, 0.25, 1, 300])
@pytest.mark.parametrize("size", SIZES)
def test_unet_leaves_images_of_one_value_alone(size: tuple[int, int], value: float, channels: int) -> None:
    image = np.full((1, *size, channels), value, np.float32)
    np.testing.assert_array_equal(shaken_unet(channels).predict_on_batch(image), image)


@pytest.mark.parametrize("value", [0, 1])
def test_unet_leaves_bars_alone_to_the_last_pixel_and_does_not_let_them_change_the_picture(value: float) -> None:
    model = shaken_unet()
    picture = np.random.default_rng(0).uniform(0.1, 0.9, (1, 48, 64, 1)).astype(np.float32)
    small, large = (
        np.pad(picture, ((0, 0), (rows, rows), (0, 0), (0, 0)), constant_values=value) for rows in (48, 160)
    )
    few, many = (np.asarray(model.predict_on_batch(framed)) for framed in (small, large))
    for restored, rows in ((few, 48), (many, 160)):
        assert (restored[:, :rows] == value).all()
        assert (restored[:, -rows:] == value).all()
        assert not np.array_equal(restored[:, rows:-rows], picture)
    # However much of an image is blank, its noise is recognised by the rest.
    np.testing.assert_allclose(few[:, 48:-48], many[:, 160:-160], atol=0.01)


def test_unet_restores_to_what_an_image_can_hold() -> None:
    noisy = np.random.default_rng(0).normal(0.5, 2, (2, 32, 32, 1)).astype(np.float32)
    restored = shaken_unet().predict_on_batch(noisy)
    assert restored.min() >= 0
    assert restored.max() <= 1


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("unet", (8, 8, 1)), ("unet", (9, 300, 3)), ("article", (28, 28, 1))],
)
def test_a_network_takes_the_shapes_it_says(architecture: str, shape: tuple[int, int, int]) -> None:
    config = ModelConfig.model_validate({"architecture": architecture})
    require_image_shape(config, shape)
    with pytest.raises(ConfigError, match="received 7x"):
        require_image_shape(config, (7, *shape[1:]))


@pytest.mark.parametrize(
    ("architecture", "shape", "message"),
    [
        ("unet", (7, 28, 1), "at least 8 pixels high and wide, received 7x28x1"),
        ("unet", (28, 7, 3), "at least 8 pixels high and wide, received 28x7x3"),
        ("article", (28, 28, 3), "article takes images of 28x28x1, received 28x28x3"),
        ("article", (32, 32, 1), "article takes images of 28x28x1, received 32x32x1"),
    ],
)
def test_a_shape_the_network_cannot_take_is_refused(
    architecture: str, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        require_image_shape(ModelConfig.model_validate({"architecture": architecture}), shape)
