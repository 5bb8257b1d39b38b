"""Compare an image with the images that a model was trained on: size, channels, noise, intensities and brightness."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dae.noise.estimation import PERCENTILES, drop_blank, estimate_level
from dae.schemas import DomainWarning, Images, TrainingDomain

SCATTER = 1.25
"""Factor by which an estimate of noise from one small image may be wrong."""


SMALLEST = 16
"""Side of an image, in pixels, below which it shows too little to be compared."""


BLOCK = 7
"""Side of the blocks, in pixels, over which local means are taken."""


MARGIN = 0.1
"""Share of the range of intensities by which an image may exceed it."""


MIN_NOISE, MIN_CLIPPED, MIN_NEAR = 0.1, 0.25, 0.3
"""When noise counts as clipped.

The first is the smallest noise level: the edges of a drawing look like weaker noise. The second is the smallest share of pixels
at one end of the range: a plain background. The third is the smallest number, for each of those pixels, of others within one
standard deviation of that end: in Gaussian noise it is about two thirds, in a dark drawing it is small.
"""


FAR = (4.0, 1.4)
"""Factors by which noise may be weaker, and stronger, than in training before the model likely does harm.

The second one is small because strong noise that a file clips at 0 and 1 has a standard deviation of at most a half.
"""


RESIZED, BRIGHT = 2.0, 1.25
"""Factors by which the sides of an image, and its mean intensity, may differ from the training images."""


FAINT = 0.3
"""A range that ends below this share of the training images' range has other units: 14 bits of 16 are 0.25."""


VERY_FAINT = 0.1
"""Below this share, the model would remove the image itself: 12 bits of 16 are 0.06."""


def find_domain_warnings(
    sample: list[Images], shape: tuple[int, ...], highest: float, trained: TrainingDomain, *, grey: bool = False
) -> list[DomainWarning]:
    """Return how an image differs from the images that a model was trained on.

    Parameters
    ----------
    sample : list of ndarray of float32
        Patches of the image, of the training images' size, in the model's range.
    shape : tuple of int
        ``(H, W, C)`` of the whole image.
    highest : float
        Highest intensity of the whole image.
    trained : TrainingDomain
    grey : bool
        Whether all channels of the image are equal.

    Returns
    -------
    list of DomainWarning
        Empty if the image is like the training images. Noise and intensities are not checked for images with a side of fewer
        than 16 pixels, which show too little, or for blank images.
    """
    channels = 1 if grey and trained.image_shape[2] == 1 else shape[2]
    warnings = [*_check_channels(channels, trained.image_shape[2]), *_check_size(shape, trained)]
    sides = zip(sample[0].shape[:2], trained.image_shape[:2], strict=True)
    if any(side < min(SMALLEST, usual) for side, usual in sides):
        return warnings
    with np.errstate(all="ignore"):  # values near the limits of floats may overflow
        return [*warnings, *_check_noise(drop_blank(sample), highest, trained)]


def _check_channels(channels: int, usual: int) -> Iterator[DomainWarning]:
    if channels == usual:
        return
    names = {1: "grey", 3: "colour"}
    yield DomainWarning(
        about="channels",
        text=f"it is in {names[channels]}, the model was trained on images in {names[usual]}",
        advice=f"convert it to {names[usual]}, or take a model of images in {names[channels]}",
        harmful=True,
    )


def _check_size(shape: tuple[int, ...], trained: TrainingDomain) -> Iterator[DomainWarning]:
    usual = trained.image_shape
    ratios = [side / other for side, other in zip(shape[:2], usual[:2], strict=True)]
    if trained.windows is not False or all(1 / RESIZED <= ratio <= RESIZED for ratio in ratios):
        return
    yield DomainWarning(
        about="size",
        text=f"it has {shape[0]}x{shape[1]} pixels, the model was trained on whole images of {usual[0]}x{usual[1]}",
        advice="cut it into images of that size, or take a model that was trained with train.page_share or data.patch",
    )


def _check_noise(sample: list[Images], highest: float, trained: TrainingDomain) -> list[DomainWarning]:
    if not sample:
        return []
    level = estimate_level(sample)
    within = all(patch.min() >= 0 and patch.max() <= 1 for patch in sample)
    lowest, highest_level = (trained.noise_sigma_within if within else None) or trained.noise_sigma
    if other_range := _check_range(sample, highest, max(level, highest_level), trained.intensity):
        return other_range
    warnings = list(_check_brightness(sample, trained))
    if not lowest / SCATTER <= level <= highest_level * SCATTER:
        stronger = level > highest_level
        warnings.append(
            DomainWarning(
                about="noise",
                text=f"its noise has a standard deviation of about {level:.3f}, "
                f"the model was trained on {lowest:.3f} to {highest_level:.3f}",
                advice="take a model of stronger noise"
                if stronger
                else "leave it as it is, or take a model of weaker noise",
                harmful=not lowest / FAR[0] <= level <= highest_level * FAR[1],
            )
        )
    if trained.unclipped and level > MIN_NOISE and _is_clipped(sample, level):
        warnings.append(
            DomainWarning(
                about="clipping",
                text="its noise seems to be cut off at 0 and 1, as it is in most files, "
                "and the model was trained on noise that goes beyond",
                advice="take a model that was trained with noise.file_share above 0",
            )
        )
    return warnings


def _check_brightness(sample: list[Images], trained: TrainingDomain) -> Iterator[DomainWarning]:
    mean = float(np.mean([patch.mean(dtype=np.float64) for patch in sample]))
    if trained.brightness is None:
        return
    low, high = trained.brightness
    if low / BRIGHT - MARGIN / 2 <= mean <= high * BRIGHT:
        return
    inverted = low / BRIGHT <= 1 - mean <= high * BRIGHT
    yield DomainWarning(
        about="brightness",
        text=f"its mean intensity is {mean:.2f}, that of the images the model was trained on {low:.2f} to {high:.2f}",
        advice="invert it, if bright and dark are the other way round" if inverted else "take a model of such images",
    )


def _is_clipped(sample: list[Images], noise: float) -> bool:
    """Tell whether noise was clipped: no value is outside [0, 1], and many are at one end of the range and near it."""
    values = np.concatenate([patch.ravel() for patch in sample])
    if values.min() < 0 or values.max() > 1:
        return False
    for distance in (values, 1 - values):
        at_end, near_end = np.mean(distance == 0), np.mean((distance > 0) & (distance < noise))
        if at_end > MIN_CLIPPED and near_end > MIN_NEAR * at_end:
            return True
    return False


def _check_range(
    sample: list[Images], highest: float, noise: float, trained: tuple[float, float]
) -> list[DomainWarning]:
    """Compare ranges of local means, in which the noise is weaker by the factor `BLOCK`."""
    low, high = trained
    means = np.concatenate([_local_means(patch) for patch in sample])
    bottom, top = (float(value) for value in np.percentile(means, PERCENTILES))
    tolerance = 3 * noise / BLOCK + MARGIN * (high - low)
    usual = f"the model was trained on {low:.3g} to {high:.3g}"
    if bottom < low - tolerance or top > high + tolerance:
        text, advice = f"its intensities are mostly from {bottom:.3g} to {top:.3g}, {usual}", "scale them first"
        harmful = True
    elif low < highest < low + FAINT * (high - low):
        text = f"its intensities end at {highest:.3g}, {usual}"
        advice = "if they are of fewer bits than the file, scale them"
        harmful = highest < low + VERY_FAINT * (high - low)
    else:
        return []
    return [DomainWarning(about="intensities", text=text, advice=advice, harmful=harmful)]


def _local_means(patch: Images) -> NDArray[np.float32]:
    """Return the means of adjacent blocks of pixels."""
    height, width = (min(BLOCK, side) for side in patch.shape[:2])
    rows, columns = patch.shape[0] // height, patch.shape[1] // width
    blocks = patch[: rows * height, : columns * width].reshape(rows, height, columns, width, -1)
    return np.asarray(blocks.mean(axis=(1, 3)).ravel(), np.float32)
