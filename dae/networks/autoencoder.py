"""The article's convolutional autoencoder."""

from __future__ import annotations

from typing import Any

from dae import random_streams

IMAGE_SHAPE = (28, 28, 1)


def build_autoencoder(shape: tuple[int, int, int] = IMAGE_SHAPE, seed: int | None = None) -> Any:
    """Return the convolutional autoencoder of the article: 1,331,201 parameters, valid padding, ReLU throughout.

    Parameters
    ----------
    shape : tuple of int
        ``(28, 28, 1)``; no other is possible.
    seed : int, optional
        Of the initial weights.

    Returns
    -------
    keras.Model

    Notes
    -----
    Source: "Convolutional Denoising Autoencoders for image noise reduction" (2020).
    """
    import keras
    from keras import layers
    from keras.initializers import GlorotUniform

    seeds = random_streams.initializer_seeds(seed)

    def drawn() -> dict[str, Any]:
        return {"kernel_initializer": GlorotUniform(next(seeds))}

    x = inputs = keras.Input(shape, name="noisy")
    for number, (filters, size) in enumerate(((64, 5), (128, 3), (256, 3)), 1):
        x = layers.Conv2D(filters, size, activation="relu", name=f"conv_{number}", **drawn())(x)
        x = layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    x = layers.Conv2DTranspose(256, 3, activation="relu", name="deconv_1", **drawn())(x)
    for number, filters in enumerate((128, 64), 2):
        x = layers.Conv2DTranspose(filters, 3, activation="relu", name=f"deconv_{number}", **drawn())(x)
        x = layers.UpSampling2D(2, name=f"upsample_{number}")(x)
    outputs = layers.Conv2DTranspose(1, 5, activation="relu", name="deconv_4", dtype="float32", **drawn())(x)
    return keras.Model(inputs, outputs, name="article")


build_autoencoder.image_shape = IMAGE_SHAPE  # type: ignore[attr-defined]
