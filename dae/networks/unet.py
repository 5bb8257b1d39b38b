"""The default network: two scales, a global vector that recognises the noise, and a learned blend with the input.

It is made of Keras layers and `keras.ops` alone, with no class of its own, so that a saved model opens in plain Keras.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops
from keras.initializers import GlorotUniform, HeNormal, VarianceScaling

from dae import random_streams

SCALE = 4
"""Side in pixels of a cell at the deepest scale."""
GLOBAL_WIDTH = 64
BLANK = 5
"""Side of a block of pixels whose middle is blank, and holds no noise, if all have one value."""


def build_unet(
    shape: tuple[int, int, int], seed: int | None = None, *, width: int, deep_width: int, blocks: int, deep_blocks: int
) -> keras.Model:
    """Return the network for images of any height and width from 8 pixels up.

    Parameters
    ----------
    shape : tuple of int
        ``(H, W, C)`` of the training images, C 1 or 3. Height and width do not matter.
    seed : int, optional
        Of the initial weights.
    width, deep_width : int
        Channels at half and at quarter resolution.
    blocks, deep_blocks : int
        Residual blocks at half resolution, on the way down and again on the way up, and at quarter resolution.

    Returns
    -------
    keras.Model
        Maps noisy float32 images ``(N, H, W, C)``, unclipped, to restored ones in [0, 1], except blank pixels.

    Notes
    -----
    A residual U-Net (Ronneberger et al., 2015; He et al., 2016) that does no work at full resolution. Three parts are for the
    noise at hand. The exact values some noise leaves, 0, 1 and what lies outside, are marked for the first layer. A global
    vector, pooled after the first block over all that is not blank, scales and shifts the channels of every later one (FiLM,
    Perez et al., 2018). The output is a blend, weighted for every pixel, of a new value and the clipped input, so that an image
    that is nearly clean passes. What is blank stays as it is, since noise would have changed some of it: pixels amid others of
    just their value, and rows and columns of one value. So bars and empty ground stay empty whatever it was trained on.
    The last convolution of each residual block starts at zero, so that the network starts as a shallow one. Resolution is
    regained by sub-pixel convolution (Shi et al., 2016), which is faster than a transposed one.
    Every layer has a name of its own: one that Keras counts up depends on what the process built before, and TensorFlow
    adds gradients up in the order of the names, so that the same training would end differently in the last digits.
    """
    channels = shape[2]
    seeds = random_streams.initializer_seeds(seed)
    noisy = keras.Input((None, None, channels), name="noisy")
    rows, crop_rows = _padding(noisy[0, :, 0, 0])
    columns, crop_columns = _padding(noisy[0, 0, :, 0])
    y = _take(noisy, rows, columns)
    blank = _blank(y)
    clipped = ops.clip(y, 0.0, 1.0)
    marks = [ops.equal(y, 0.0), ops.greater_equal(y, 1.0), ops.equal(y, 1.0), ops.less(y, 0.0)]
    features = layers.Concatenate(name="features")([y, clipped, *(ops.cast(mark, "float32") for mark in marks)])

    stem = layers.Conv2D(width, 2, strides=2, kernel_initializer=GlorotUniform(next(seeds)), name="stem")(features)
    x = _residual("encoder_1", stem, seeds)
    # The blank part of a page or a letterbox says nothing of the noise, so it does not count.
    counted = ops.cast(ops.logical_not(ops.all(blank, axis=-1, keepdims=True)), "float32")
    share = layers.GlobalAveragePooling2D(name="pooled_share")(counted) + 1e-6
    maps = layers.ReLU(name="pooled_relu")(x) * ops.average_pool(counted, 2, 2)
    pooled = [
        layers.GlobalAveragePooling2D(name="pooled_maps")(maps) / share,
        layers.GlobalAveragePooling2D(name="pooled_features")(features * counted) / share,
    ]
    vector = layers.Concatenate(name="pooled")(pooled)
    for name in ("pooled_dense", "noise"):
        start = GlorotUniform(next(seeds))
        vector = layers.Dense(GLOBAL_WIDTH, activation="relu", kernel_initializer=start, name=name)(vector)
    for block in range(2, blocks + 1):
        x = _residual(f"encoder_{block}", x, seeds, vector)
    skip = x
    down = layers.Conv2D(deep_width, 2, strides=2, kernel_initializer=GlorotUniform(next(seeds)), name="down")
    x = down(layers.ReLU(name="down_relu")(x))
    for block in range(1, deep_blocks + 1):
        x = _residual(f"deep_{block}", x, seeds, vector)
    x = _finer(x, width, seeds, name="up") + skip
    for block in range(1, blocks + 1):
        x = _residual(f"decoder_{block}", x, seeds, vector)

    x = _finer(layers.ReLU(name="out_relu")(x), 2 * channels, seeds, name="out", dtype="float32")
    value, keep = x[..., :channels], ops.sigmoid(x[..., channels:])
    restored = ops.where(blank, y, ops.clip(value + keep * (clipped - value), 0.0, 1.0))
    return keras.Model(noisy, _take(restored, crop_rows, crop_columns), name="unet")


def _residual(name: str, x: Any, seeds: Iterator[int | None], vector: Any | None = None) -> Any:
    """Return x plus two convolutions of it, modulated in between by the global vector where there is one."""
    size = x.shape[-1]
    start = HeNormal(next(seeds))
    h = layers.Conv2D(size, 3, padding="same", kernel_initializer=start, name=f"{name}_conv_1")(x)
    if vector is not None:
        scale, shift = (_per_channel(f"{name}_{part}", vector, size) for part in ("scale", "shift"))
        h = h * (1.0 + scale) + shift
    h = layers.Activation("silu", name=f"{name}_silu")(h)
    return x + layers.Conv2D(size, 3, padding="same", kernel_initializer="zeros", name=f"{name}_conv_2")(h)


def _per_channel(name: str, vector: Any, size: int) -> Any:
    values = layers.Dense(size, kernel_initializer="zeros", name=name)(vector)
    return layers.Reshape((1, 1, size), name=f"{name}_map")(values)


def _finer(x: Any, size: int, seeds: Iterator[int | None], **options: Any) -> Any:
    """Return maps of twice the resolution, by sub-pixel convolution."""
    # Smaller than Keras's default, which from some seeds takes hundreds of steps to recover from.
    start = VarianceScaling(0.1, "fan_avg", "uniform", next(seeds))
    return ops.depth_to_space(layers.Conv2D(4 * size, 1, kernel_initializer=start, **options)(x), 2)


def _blank(images: Any) -> Any:
    """Return which pixels are blank.

    Corners of a block are not: noise such as speckle can set single pixels of a stroke to the value of the ground beside it.
    """
    blank = ops.equal(ops.max_pool(images, BLANK, 1, padding="same"), -ops.max_pool(-images, BLANK, 1, padding="same"))
    for axis in (1, 2):
        line = ops.equal(ops.max(images, axis=axis, keepdims=True), ops.min(images, axis=axis, keepdims=True))
        blank = ops.logical_or(blank, line)
    return blank


def _padding(line: Any) -> tuple[Any, Any]:
    """Return the indices that pad an axis by reflection to a multiple of `SCALE`, and those that crop it back.

    Both are counted off a line of pixels along that axis, since its length is not known before the image is there.
    """
    index = _count(line)
    cells = ops.max_pool(ops.reshape(line, (1, -1, 1)), SCALE, SCALE, padding="same")[0, :, 0]
    padded = _count(ops.repeat(cells, SCALE))
    last = ops.max(index)
    return last - ops.abs(last - padded), index


def _count(line: Any) -> Any:
    return ops.cumsum(ops.cast(ops.ones_like(line), "int32")) - 1


def _take(images: Any, rows: Any, columns: Any) -> Any:
    return ops.take(ops.take(images, rows, axis=1), columns, axis=2)
