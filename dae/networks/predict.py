"""Applying a model to images, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dae.schemas import Images

BATCH = 256
BATCH_PIXELS = 2**21
Denoiser = Callable[[Images], Images]


def choose_batch_size(shape: tuple[int, ...]) -> int:
    """Return how many images of a shape a model is given at a time: 256, fewer of large ones.

    Examples
    --------
    >>> choose_batch_size((28, 28, 1)), choose_batch_size((512, 512, 3))
    (256, 2)
    """
    return max(1, min(BATCH, BATCH_PIXELS // math.prod(shape)))


def make_denoiser(model: Any, batch: int | None = None) -> Denoiser:
    """Return a function that applies a Keras model to any number of images.

    Parameters
    ----------
    model : keras.Model
    batch : int, optional
        How many images it is given at a time, at most; by default as many as `choose_batch_size` says.

    Returns
    -------
    callable
        Maps noisy float32 images ``(N, H, W, C)`` to restored ones, exactly as the model gives them. The last batch is filled
        up, so that the model is compiled for one shape only, and a result does not depend on how many images it was computed
        with.
    """

    def denoise(noisy: Images) -> Images:
        restored = np.empty_like(noisy)
        size = batch or choose_batch_size(noisy.shape[1:])
        for start in range(0, len(noisy), size):
            part = noisy[start : start + size]
            filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
            restored[start : start + size] = np.asarray(model.predict_on_batch(filled))[: len(part)]
        return restored

    return denoise
