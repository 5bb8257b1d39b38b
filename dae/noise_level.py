"""How strong the noise of an image is, and whether noise and intensities are such as a model was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dae import corruption
from dae.noise import Images
from dae.records import NoisySet, TrainedOn

SAMPLE = 256
LARGEST_PATCH = 256
PATCHES_PER_AXIS = 8
PERCENTILES = (1, 99)
SCATTER = 1.25
"""By which factor an estimate from one small image may lie off."""
SMALLEST = 16
"""Side of an image, in pixels, below which nothing is said of it."""
BLOCK = 7
MARGIN = 0.1
PLAIN, CUT_OFF, GOES_ON = 0.1, 0.25, 0.3
"""Noise that is more than the edges of a drawing; a share of pixels at an end of the range as a plain ground has; and how
many of these there are within the noise's standard deviation of it: two thirds in Gaussian noise, few in a dark drawing."""
FAINT = 0.3
"""A range that ends below this share of the training images' is that of other units: 14 bits of 16 are 0.25."""


def estimate(images: Images) -> NDArray[np.float64]:
    """Return the standard deviation of the noise in each image.

    Parameters
    ----------
    images : ndarray of float32, shape (N, H, W, C)
        In [0, 1] but for the noise.

    Returns
    -------
    ndarray of float64, shape (N,)
        Mean over the channels of the median absolute finest wavelet coefficient over 0.6745, without those that are 0, after
        Donoho and Johnstone (1994): ``skimage.restoration.estimate_sigma``. It is exact for Gaussian noise, follows other
        kinds, and takes the edges of small drawings for noise of up to 0.1. An image of one value has 0.

    Examples
    --------
    >>> noisy = np.random.default_rng(0).normal(0.5, 0.1, (1, 128, 128, 1)).astype(np.float32)
    >>> estimate(noisy).round(2).tolist()
    [0.1]
    """
    from skimage.restoration import estimate_sigma

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of having no coefficient but 0
        found = [np.nan_to_num(estimate_sigma(image, channel_axis=-1)) for image in images]
    return np.array([np.mean(channels) for channels in found], np.float64)


def patches(image: NDArray[np.generic], size: tuple[int, int]) -> Iterator[NDArray[np.generic]]:
    """Yield up to 64 patches of an image ``(H, W, C)``, evenly spread; where it is smaller than one, the whole of it.

    Examples
    --------
    >>> len(list(patches(np.zeros((300, 20, 1)), (28, 28))))
    8
    """
    (top, height), (left, width) = (_spread(full, side) for full, side in zip(image.shape[:2], size, strict=True))
    for y in top:
        for x in left:
            yield image[y : y + height, x : x + width]


def _spread(length: int, side: int) -> tuple[list[int], int]:
    side = min(side, length, LARGEST_PATCH)
    count = min(PATCHES_PER_AXIS, length // side)
    return [int(start) for start in np.linspace(0, length - side, count)], side


def level(sample: list[Images]) -> float:
    """Return the noise of an image from its patches: the median, which the few that show an edge do not move."""
    return float(np.median([estimate(patch[None])[0] for patch in sample]))


def trained_on(noisy: NoisySet) -> TrainedOn:
    """Return what a model is trained on, measured on up to 256 images, evenly spread, of its frozen validation set.

    Parameters
    ----------
    noisy : NoisySet

    Returns
    -------
    TrainedOn
        The noise from the 1st to the 99th percentile of the images; the intensities of the clean ones.
    """
    levels, low, high, unclipped = [], np.inf, -np.inf, False
    size = noisy.clean.shape[:2]
    for row in np.unique(np.linspace(0, noisy.clean.count - 1, SAMPLE).astype(np.intp)):
        damaged, clean, _ = corruption.read_block(noisy, slice(row, row + 1))
        levels.append(level([patch.astype(np.float32) for patch in patches(damaged[0], size)]))
        low, high = min(low, float(clean.min())), max(high, float(clean.max()))
        unclipped |= bool(damaged.min() < 0 or damaged.max() > 1)
    lowest, highest = (float(value) for value in np.percentile(levels, PERCENTILES))
    return TrainedOn(
        image_shape=noisy.clean.shape, noise_sigma=(lowest, highest), intensity=(low, high), unclipped=unclipped
    )


def concerns(sample: list[Images], highest: float, trained: TrainedOn) -> list[str]:
    """Return in words how an image differs from what a model was trained on.

    Parameters
    ----------
    sample : list of ndarray of float32
        Patches of the image, of the training images' size, as the model is given them.
    highest : float
        Highest intensity of the whole image.
    trained : TrainedOn

    Returns
    -------
    list of str
        Empty where nothing is to be said, as of images of fewer than 16 pixels a side, which show too little.
    """
    sides = zip(sample[0].shape[:2], trained.image_shape[:2], strict=True)
    if any(side < min(SMALLEST, usual) for side, usual in sides):
        return []
    with np.errstate(all="ignore"):  # values near the end of the range of floats
        return _concerns(sample, highest, trained)


def _concerns(sample: list[Images], highest: float, trained: TrainedOn) -> list[str]:
    found = level(sample)
    lowest_noise, highest_noise = trained.noise_sigma
    said = _range_concerns(sample, highest, max(found, highest_noise), trained.intensity)
    if not lowest_noise / SCATTER <= found <= highest_noise * SCATTER and not said:
        said.append(
            f"its noise has a standard deviation of about {found:.3f}, "
            f"the model was trained on {lowest_noise:.3f} to {highest_noise:.3f}"
        )
    if trained.unclipped and found > PLAIN and _cut_off(sample, found):
        said.append(
            "its noise seems to be cut off at 0 and 1, as it is in most files, and the model was trained on noise that goes "
            "beyond: one trained with noise.clip=true will do better"
        )
    return said


def _cut_off(sample: list[Images], noise: float) -> bool:
    """Tell whether noise was cut off: nothing lies beyond 0 and 1, and values pile up on one of them that go on beside it."""
    values = np.concatenate([patch.ravel() for patch in sample])
    if values.min() < 0 or values.max() > 1:
        return False
    for from_end in (values, 1 - values):
        on, beside = np.mean(from_end == 0), np.mean((from_end > 0) & (from_end < noise))
        if on > CUT_OFF and beside > GOES_ON * on:
            return True
    return False


def _range_concerns(sample: list[Images], highest: float, noise: float, trained: tuple[float, float]) -> list[str]:
    """Compare ranges by local means, in which noise is a `BLOCK`th of what it is."""
    low, high = trained
    means = np.concatenate([_local_means(patch) for patch in sample])
    bottom, top = (float(value) for value in np.percentile(means, PERCENTILES))
    room = 3 * noise / BLOCK + MARGIN * (high - low)
    range_ = f"the model was trained on {low:.3g} to {high:.3g}"
    if bottom < low - room or top > high + room:
        return [f"its intensities are mostly from {bottom:.3g} to {top:.3g}, {range_}: scale them first"]
    if low < highest < low + FAINT * (high - low):
        return [f"its intensities end at {highest:.3g}, {range_}: if they are of fewer bits than the file, scale them"]
    return []


def _local_means(patch: Images) -> NDArray[np.float32]:
    """Return the means of blocks of pixels side by side."""
    height, width = (min(BLOCK, side) for side in patch.shape[:2])
    rows, columns = patch.shape[0] // height, patch.shape[1] // width
    blocks = patch[: rows * height, : columns * width].reshape(rows, height, columns, width, -1)
    return np.asarray(blocks.mean(axis=(1, 3)).ravel(), np.float32)
