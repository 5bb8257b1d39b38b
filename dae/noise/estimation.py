"""How strong the noise of an image is, and whether noise and intensities are such as a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from dae.data import noisy_datasets
from dae.noise.kinds import Images
from dae.schemas import EIGHT_BIT, Concern, NoisySet, TrainedOn

SAMPLE = 256
LARGEST_PATCH = 256
PATCHES = 64
"""Of an image that are looked at, and along an axis that they are chosen from."""
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
NORMAL_MAD, NEIGHBOURS = 0.6745, 5
"""Median absolute value of a standard normal variable; side of a neighbourhood in pixels."""
BLANK = 4 / 255
"""Range of the values, beside the highest, of a patch that shows nothing: JPEG moves those near an edge by so much."""
FAR = (4.0, 1.4)
"""By which factor noise may be below, and above, that of the training before the model likely does harm.

Strong noise that a file cuts off at 0 and 1 has a standard deviation of no more than a half, so a little more says much."""
RESIZED, BRIGHT = 2.0, 1.25
"""By which factor the sides of an image, and its mean intensity, may lie off."""
FAINT = 0.3
"""A range that ends below this share of the training images' is that of other units: 14 bits of 16 are 0.25."""
VERY_FAINT = 0.1
"""The same, where nothing of the image would be left: 12 bits of 16 are 0.06."""


def estimate(images: Images) -> NDArray[np.float64]:
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
    >>> estimate(noisy).round(2).tolist()
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
    """Return where a channel ``(H, W)`` shows nothing: its neighbourhood has one value, but for what JPEG makes of it."""
    from scipy import ndimage

    span = ndimage.maximum_filter(plane, NEIGHBOURS) - ndimage.minimum_filter(plane, NEIGHBOURS)
    return np.asarray(span <= BLANK * min(1.0, float(plane.max())))


def patches(image: NDArray[np.generic], size: tuple[int, int]) -> Iterator[NDArray[np.generic]]:
    """Yield up to 64 patches of an image ``(H, W, C)``, evenly spread over what is not blank.

    Where the image is smaller than a patch, it is the whole of it; where all of it is blank, patches of that.

    Examples
    --------
    >>> len(list(patches(np.zeros((300, 20, 1)), (28, 28))))
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


def level(sample: list[Images]) -> float:
    """Return the noise of an image from its patches: the median, which the few that show an edge do not move.

    Blank patches, such as bars and empty paper, do not count; where all are blank, it is 0.
    """
    return float(np.median([estimate(patch[None])[0] for patch in not_blank(sample)] or [0.0]))


def not_blank(sample: list[Images]) -> list[Images]:
    """Return the patches that hold more than one value, but for what JPEG makes of one."""
    highest = min(1.0, max(float(patch.max()) for patch in sample))
    return [patch for patch in sample if float(patch.max()) - float(patch.min()) > BLANK * highest]


def trained_on(noisy: NoisySet, *, windows: bool | None = None) -> TrainedOn:
    """Return what a model is trained on, measured on up to 256 images, evenly spread, of its frozen validation set.

    Parameters
    ----------
    noisy : NoisySet
    windows : bool, optional
        Whether training images are windows of larger ones.

    Returns
    -------
    TrainedOn
        Noise and brightness from the 1st to the 99th percentile of the images; the intensities of the clean ones.
    """
    levels, means, within, low, high = [], [], [], np.inf, -np.inf
    size = noisy.clean.shape[:2]
    for row in np.unique(np.linspace(0, noisy.clean.count - 1, SAMPLE).astype(np.intp)):
        damaged, clean, _ = noisy_datasets.read_block(noisy, slice(row, row + 1))
        levels.append(level([patch.astype(np.float32) for patch in patches(damaged[0], size)]))
        means.append(float(damaged.mean()))
        low, high = min(low, float(clean.min())), max(high, float(clean.max()))
        within.append(bool(damaged.min() >= 0 and damaged.max() <= 1))
    in_files = any(kind.endswith(EIGHT_BIT) for kind in noisy.kinds)
    return TrainedOn(
        image_shape=noisy.clean.shape,
        noise_sigma=_extent(levels),
        intensity=(low, high),
        unclipped=not all(within) and not in_files,
        windows=windows,
        brightness=_extent(means),
        noise_sigma_within=_extent(list(compress(levels, within))) if in_files and any(within) else None,
    )


def _extent(values: list[float]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    return low, high


def concerns(
    sample: list[Images], shape: tuple[int, ...], highest: float, trained: TrainedOn, *, grey: bool = False
) -> list[Concern]:
    """Return how an image differs from what a model was trained on.

    Parameters
    ----------
    sample : list of ndarray of float32
        Patches of the image, of the training images' size, as the model is given them.
    shape : tuple of int
        ``(H, W, C)`` of the whole image.
    highest : float
        Highest intensity of the whole image.
    trained : TrainedOn
    grey : bool
        Whether all channels of the image are equal.

    Returns
    -------
    list of Concern
        Empty where nothing is to be said. Of noise and intensities nothing is said of images of fewer than 16 pixels a side,
        which show too little, nor of blank ones.
    """
    channels = 1 if grey and trained.image_shape[2] == 1 else shape[2]
    found = [*_channels_concern(channels, trained.image_shape[2]), *_size_concern(shape, trained)]
    sides = zip(sample[0].shape[:2], trained.image_shape[:2], strict=True)
    if any(side < min(SMALLEST, usual) for side, usual in sides):
        return found
    with np.errstate(all="ignore"):  # values near the end of the range of floats
        return [*found, *_noise_concerns(not_blank(sample), highest, trained)]


def _channels_concern(channels: int, usual: int) -> Iterator[Concern]:
    if channels == usual:
        return
    names = {1: "grey", 3: "colour"}
    yield Concern(
        about="channels",
        text=f"it is in {names[channels]}, the model was trained on images in {names[usual]}",
        advice=f"convert it to {names[usual]}, or take a model of images in {names[channels]}",
        harmful=True,
    )


def _size_concern(shape: tuple[int, ...], trained: TrainedOn) -> Iterator[Concern]:
    usual = trained.image_shape
    ratios = [side / other for side, other in zip(shape[:2], usual[:2], strict=True)]
    if trained.windows is not False or all(1 / RESIZED <= ratio <= RESIZED for ratio in ratios):
        return
    yield Concern(
        about="size",
        text=f"it has {shape[0]}x{shape[1]} pixels, the model was trained on whole images of {usual[0]}x{usual[1]}",
        advice="cut it into such, or take a model that was trained with train.page_share or data.patch",
    )


def _noise_concerns(sample: list[Images], highest: float, trained: TrainedOn) -> list[Concern]:
    if not sample:
        return []
    found = level(sample)
    within = all(patch.min() >= 0 and patch.max() <= 1 for patch in sample)
    lowest, most = (trained.noise_sigma_within if within else None) or trained.noise_sigma
    if other_range := _range_concerns(sample, highest, max(found, most), trained.intensity):
        return other_range
    said = list(_brightness_concern(sample, trained))
    if not lowest / SCATTER <= found <= most * SCATTER:
        much = found > most
        said.append(
            Concern(
                about="noise",
                text=f"its noise has a standard deviation of about {found:.3f}, "
                f"the model was trained on {lowest:.3f} to {most:.3f}",
                advice="take a model of stronger noise"
                if much
                else "leave it as it is, or take a model of weaker noise",
                harmful=not lowest / FAR[0] <= found <= most * FAR[1],
            )
        )
    if trained.unclipped and found > PLAIN and _cut_off(sample, found):
        said.append(
            Concern(
                about="clipping",
                text="its noise seems to be cut off at 0 and 1, as it is in most files, "
                "and the model was trained on noise that goes beyond",
                advice="take a model that was trained with noise.file_share above 0",
            )
        )
    return said


def _brightness_concern(sample: list[Images], trained: TrainedOn) -> Iterator[Concern]:
    mean = float(np.mean([patch.mean(dtype=np.float64) for patch in sample]))
    if trained.brightness is None:
        return
    low, high = trained.brightness
    if low / BRIGHT - MARGIN / 2 <= mean <= high * BRIGHT:
        return
    inverted = low / BRIGHT <= 1 - mean <= high * BRIGHT
    yield Concern(
        about="brightness",
        text=f"its mean intensity is {mean:.2f}, that of the images the model was trained on {low:.2f} to {high:.2f}",
        advice="invert it, if bright and dark are the other way round" if inverted else "take a model of such images",
    )


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


def _range_concerns(sample: list[Images], highest: float, noise: float, trained: tuple[float, float]) -> list[Concern]:
    """Compare ranges by local means, in which noise is a `BLOCK`th of what it is."""
    low, high = trained
    means = np.concatenate([_local_means(patch) for patch in sample])
    bottom, top = (float(value) for value in np.percentile(means, PERCENTILES))
    room = 3 * noise / BLOCK + MARGIN * (high - low)
    usual = f"the model was trained on {low:.3g} to {high:.3g}"
    if bottom < low - room or top > high + room:
        text, advice = f"its intensities are mostly from {bottom:.3g} to {top:.3g}, {usual}", "scale them first"
        harmful = True
    elif low < highest < low + FAINT * (high - low):
        text = f"its intensities end at {highest:.3g}, {usual}"
        advice = "if they are of fewer bits than the file, scale them"
        harmful = highest < low + VERY_FAINT * (high - low)
    else:
        return []
    return [Concern(about="intensities", text=text, advice=advice, harmful=harmful)]


def _local_means(patch: Images) -> NDArray[np.float32]:
    """Return the means of blocks of pixels side by side."""
    height, width = (min(BLOCK, side) for side in patch.shape[:2])
    rows, columns = patch.shape[0] // height, patch.shape[1] // width
    blocks = patch[: rows * height, : columns * width].reshape(rows, height, columns, width, -1)
    return np.asarray(blocks.mean(axis=(1, 3)).ravel(), np.float32)
