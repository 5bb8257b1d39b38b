"""The networks: a name and an image shape in, an uncompiled `keras.Model` out. Keras layers and `keras.ops` only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dae.config.schema import ModelConfig
from dae.networks.autoencoder import build_autoencoder


def build_network(
    config: ModelConfig, shape: tuple[int, int, int], precision: str = "float32", seed: int | None = None
) -> Any:
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
            return build_autoencoder(seed)
        from dae.networks.unet import build_unet

        return build_unet(shape[-1], config.width, config.deep_width, config.blocks, config.deep_blocks, seed)


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
