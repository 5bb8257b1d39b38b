"""The default network: two scales, a global vector that recognises the noise, and a learned blend with the input.

It is made of Keras layers and `keras.ops` alone, with no class of its own, so that a saved model opens in plain Keras.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

SCALE = 4
"""Work at the deepest scale is done on cells of so many pixels a side."""
GLOBAL_WIDTH = 64


def unet(channels: int, width: int, deep_width: int, blocks: int, deep_blocks: int) -> keras.Model:
    """Return the network for images of any height and width from 8 pixels up.

    Parameters
    ----------
    channels : int
        1 or 3.
    width, deep_width : int
        Channels at half and at quarter resolution.
    blocks, deep_blocks : int
        Residual blocks at half resolution, on the way down and again on the way up, and at quarter resolution.

    Returns
    -------
    keras.Model
        Maps noisy float32 images ``(N, H, W, C)``, unclipped, to restored ones.

    Notes
    -----
    A residual U-Net (Ronneberger et al., 2015; He et al., 2016) that does no work at full resolution. Three parts are for the
    noise at hand. The exact values some noise leaves, 0, 1 and what lies outside, are marked for the first layer. A global
    vector, pooled after the first block, scales and shifts the channels of every later one (FiLM, Perez et al., 2018). The
    output is a blend, weighted for every pixel, of a new value and the clipped input, so that an image that is nearly clean
    passes.
    The last convolution of each residual block starts at zero, so that the network starts as a shallow one. Resolution is
    regained by sub-pixel convolution (Shi et al., 2016), which is faster than a transposed one.
    """
    noisy = keras.Input((None, None, channels), name="noisy")
    rows, crop_rows = _padding(noisy[0, :, 0, 0])
    columns, crop_columns = _padding(noisy[0, 0, :, 0])
    y = _take(noisy, rows, columns)
    clipped = ops.clip(y, 0.0, 1.0)
    marks = [ops.equal(y, 0.0), ops.greater_equal(y, 1.0), ops.equal(y, 1.0), ops.less(y, 0.0)]
    features = layers.Concatenate()([y, clipped, *(ops.cast(mark, "float32") for mark in marks)])

    x = _residual(layers.Conv2D(width, 2, strides=2, name="stem")(features))
    pooled = [layers.GlobalAveragePooling2D()(maps) for maps in (layers.ReLU()(x), features)]
    vector = layers.Dense(GLOBAL_WIDTH, activation="relu")(layers.Concatenate()(pooled))
    vector = layers.Dense(GLOBAL_WIDTH, activation="relu", name="noise")(vector)
    for _ in range(blocks - 1):
        x = _residual(x, vector)
    skip = x
    x = layers.Conv2D(deep_width, 2, strides=2, name="down")(layers.ReLU()(x))
    for _ in range(deep_blocks):
        x = _residual(x, vector)
    x = _finer(x, width, name="up") + skip
    for _ in range(blocks):
        x = _residual(x, vector)

    x = _finer(layers.ReLU()(x), 2 * channels, name="out", dtype="float32")
    value, keep = x[..., :channels], ops.sigmoid(x[..., channels:])
    return keras.Model(noisy, _take(value + keep * (clipped - value), crop_rows, crop_columns), name="unet")


def _residual(x: Any, vector: Any | None = None) -> Any:
    """Return x plus two convolutions of it, modulated in between by the global vector where there is one."""
    size = x.shape[-1]
    h = layers.Conv2D(size, 3, padding="same", kernel_initializer="he_normal")(x)
    if vector is not None:
        scale, shift = (layers.Dense(size, kernel_initializer="zeros")(vector) for _ in range(2))
        h = h * (1.0 + layers.Reshape((1, 1, size))(scale)) + layers.Reshape((1, 1, size))(shift)
    return x + layers.Conv2D(size, 3, padding="same", kernel_initializer="zeros")(layers.ReLU()(h))


def _finer(x: Any, size: int, **options: Any) -> Any:
    """Return maps of twice the resolution, by sub-pixel convolution."""
    # Smaller than Keras's default, which from some seeds takes hundreds of steps to recover from.
    start = keras.initializers.VarianceScaling(0.1, "fan_avg", "uniform")
    return ops.depth_to_space(layers.Conv2D(4 * size, 1, kernel_initializer=start, **options)(x), 2)


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
