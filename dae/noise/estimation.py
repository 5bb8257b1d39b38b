"""How strong the noise of an image is, estimated from the image alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dae.schemas import Images

LARGEST_PATCH = 256
PATCHES = 64
"""Number of patches of an image that are examined, and of candidates along an axis."""
PERCENTILES = (1, 99)
NORMAL_MAD, NEIGHBOURS = 0.6745, 5
"""Median absolute value of a standard normal variable; side of a neighbourhood in pixels."""
BLANK = 4 / 255
"""Range of the values of a blank patch, relative to the highest: JPEG changes values near an edge by this much."""


def estimate_sigma(images: Images) -> NDArray[np.float64]:
    """Return the standard deviation of the noise in each image.

    Parameters
    ----------
    images : ndarray of float32, shape (N, H, W, C)
        In [0, 1] but for the noise.

    Returns
    -------
    ndarray of float64, shape (N,)
        Mean over the channels of the median absolute finest wavelet coefficient over 0.6745, after Donoho and Johnstone (1994),
        where the image is not blank. It is exact for Gaussian noise, follows other kinds, and takes the edges of small
        drawings for noise of up to 0.1. A blank image has 0.

    Examples
    --------
    >>> noisy = np.random.default_rng(0).normal(0.5, 0.1, (1, 128, 128, 1)).astype(np.float32)
    >>> estimate_sigma(noisy).round(2).tolist()
    [0.1]
    """
    return np.array([np.mean([_sigma(plane) for plane in np.moveaxis(image, -1, 0)]) for image in images], np.float64)


def _sigma(plane: Images) -> float:
    """Return the standard deviation of the noise in one channel ``(H, W)``."""
    import pywt

    details = np.abs(pywt.dwtn(plane, "db2")["dd"])
    shown = ~_is_blank(plane)
    # A coefficient belongs to the pixel in the middle of its filter.
    sides = zip(details.shape, plane.shape, strict=True)
    rows, columns = (np.minimum(np.abs(2 * np.arange(count) - 1), side - 1) for count, side in sides)
    details = details[shown[np.ix_(rows, columns)]]
    return float(np.median(details)) / NORMAL_MAD if details.size else 0.0


def _is_blank(plane: Images) -> NDArray[np.bool_]:
    """Return a mask of the blank pixels of a channel ``(H, W)``: the neighbourhood has one value, except for JPEG's errors."""
    from scipy import ndimage

    span = ndimage.maximum_filter(plane, NEIGHBOURS) - ndimage.minimum_filter(plane, NEIGHBOURS)
    return np.asarray(span <= BLANK * min(1.0, float(plane.max())))


def iterate_patches(image: NDArray[np.generic], size: tuple[int, int]) -> Iterator[NDArray[np.generic]]:
    """Yield up to 64 patches of an image ``(H, W, C)``, evenly spread over what is not blank.

    Where the image is smaller than a patch, it is the whole of it; where all of it is blank, patches of that.

    Examples
    --------
    >>> len(list(iterate_patches(np.zeros((300, 20, 1)), (28, 28))))
    10
    """
    (tops, height), (lefts, width) = (_spread(full, side) for full, side in zip(image.shape[:2], size, strict=True))
    everywhere = [image[top : top + height, left : left + width] for top in tops for left in lefts]
    shown = [patch for patch in everywhere if patch.max() != patch.min()] or everywhere
    for index in np.unique(np.linspace(0, len(shown) - 1, PATCHES).astype(np.intp)):
        yield shown[index]


def _spread(length: int, side: int) -> tuple[list[int], int]:
    side = min(side, length, LARGEST_PATCH)
    count = min(PATCHES, length // side)
    return [int(start) for start in np.linspace(0, length - side, count)], side


def estimate_level(sample: list[Images]) -> float:
    """Return the noise of an image from its patches: the median, which the few that show an edge do not move.

    Blank patches, such as bars and empty paper, do not count; where all are blank, it is 0.
    """
    return float(np.median([estimate_sigma(patch[None])[0] for patch in drop_blank(sample)] or [0.0]))


def drop_blank(sample: list[Images]) -> list[Images]:
    """Return the patches that hold more than one value, but for what JPEG makes of one."""
    highest = min(1.0, max(float(patch.max()) for patch in sample))
    return [patch for patch in sample if float(patch.max()) - float(patch.min()) > BLANK * highest]
