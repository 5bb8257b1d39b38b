"""The pixels of images that are not black: where the noise scales with the intensity, only they need a draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
LEVELS = 256
"""Grey levels of an 8-bit image."""


@dataclass(frozen=True)
class NonzeroPixels:
    """The pixels above 0 of some images, image after image; all pixels where most are nonzero.

    Attributes
    ----------
    images : ndarray of float32, shape (N, ...)
        In [0, 1], without gaps in memory.
    index : ndarray of int, or slice
        Which of the flattened images' pixels.
    values : ndarray of float32
        Theirs.
    """

    images: Images
    index: NDArray[np.intp] | slice
    values: Images

    @classmethod
    def of(cls, images: Images) -> NonzeroPixels:
        """Find the nonzero pixels."""
        pixels = images.reshape(-1)
        nonzero = np.flatnonzero(pixels > 0)
        # To pick pixels out and put them back costs more than a few draws in vain.
        index = nonzero if 2 * nonzero.size < pixels.size else slice(None)
        return cls(images, index, pixels[index])

    def put(self, values: Images) -> None:
        """Write values into the images, at these pixels."""
        self.images.reshape(-1)[self.index] = values

    def spread(self, per_image: NDArray[Any]) -> NDArray[Any]:
        """Return each pixel's value of a quantity given for each image, shape ``(N,)``."""
        return np.repeat(per_image, self._counts)

    @cached_property
    def _counts(self) -> NDArray[np.intp]:
        size = math.prod(self.images.shape[1:])
        if isinstance(self.index, slice):
            return np.full(len(self.images), size, np.intp)
        return np.diff(np.searchsorted(self.index, np.arange(len(self.images) + 1) * size))

    @cached_property
    def levels(self) -> NDArray[np.intp] | None:
        """The pixels' grey levels from 0 to 255, or None where a value is not one of 8 bits."""
        scaled = self.values * np.float32(LEVELS - 1)
        scaled += np.float32(0.5)
        levels = scaled.astype(np.intp)
        scaled[:] = levels
        scaled /= np.float32(LEVELS - 1)
        inside = levels.size == 0 or (levels.min() >= 0 and levels.max() < LEVELS)
        return levels if inside and np.array_equal(scaled, self.values) else None

    def grey_level_peaks(self) -> Images:
        """Return each image's Poisson peak, the power of two at or above its number of distinct values; shape ``(N,)``."""
        count = len(self.images)
        if self.levels is None:
            ordered = np.sort(self.images.reshape(count, -1), axis=1)
            distinct = 1 + np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1)
        else:
            present = np.zeros((count, LEVELS), np.bool_)
            present[:, 0] = self._counts < math.prod(self.images.shape[1:])  # the pixels left out are black
            present.reshape(-1)[self.spread(np.arange(0, count * LEVELS, LEVELS)) + self.levels] = True
            distinct = np.bitwise_count(np.packbits(present, axis=1).view(np.uint64)).sum(axis=1)
        return np.asarray(np.exp2(np.ceil(np.log2(distinct))), np.float32)
