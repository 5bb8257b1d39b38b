"""The networks: a name and an image shape in, an uncompiled `keras.Model` out. Keras layers and `keras.ops` only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dae import random_streams
from dae.config.schema import ModelConfig


def build(config: ModelConfig, shape: tuple[int, int, int], precision: str = "float32", seed: int | None = None) -> Any:
    """Return the configured network for images of a shape.

    Parameters
    ----------
    config : ModelConfig
    shape : tuple of int
        ``(H, W, C)`` of the training images. The ``unet`` takes any height and width from 8 up all the same.
    precision : str
        Keras's name of the layers' dtype policy. Weights and outputs are float32 under each.
    seed : int, optional
        Of the initial weights; else Keras draws them from Python's global random numbers, as other libraries' threads do.

    Returns
    -------
    keras.Model
        Maps noisy float32 images ``(N, H, W, C)``, unclipped, to restored ones of the same shape and type.

    Raises
    ------
    ConfigError
        If the network cannot take the shape.
    """
    config.require(shape)
    with _dtype_policy(precision):
        if config.architecture == "article":
            return article(seed)
        from dae.networks.unet import unet

        return unet(shape[-1], config.width, config.deep_width, config.blocks, config.deep_blocks, seed)


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def article(seed: int | None = None) -> Any:
    """Return the convolutional autoencoder of the article: 28x28x1 in and out, 1,331,201 parameters.

    Source: "Convolutional Denoising Autoencoders for image noise reduction" (2020). Valid padding, ReLU throughout.
    """
    import keras
    from keras import layers
    from keras.initializers import GlorotUniform

    seeds = random_streams.seeds(seed)

    def drawn() -> dict[str, Any]:
        return {"kernel_initializer": GlorotUniform(next(seeds))}

    x = inputs = keras.Input((28, 28, 1), name="noisy")
    for number, (filters, size) in enumerate(((64, 5), (128, 3), (256, 3)), 1):
        x = layers.Conv2D(filters, size, activation="relu", name=f"conv_{number}", **drawn())(x)
        x = layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    x = layers.Conv2DTranspose(256, 3, activation="relu", name="deconv_1", **drawn())(x)
    for number, filters in enumerate((128, 64), 2):
        x = layers.Conv2DTranspose(filters, 3, activation="relu", name=f"deconv_{number}", **drawn())(x)
        x = layers.UpSampling2D(2, name=f"upsample_{number}")(x)
    outputs = layers.Conv2DTranspose(1, 5, activation="relu", name="deconv_4", dtype="float32", **drawn())(x)
    return keras.Model(inputs, outputs, name="article")
