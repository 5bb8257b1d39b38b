"""Whether an image is like those a model was trained on: its size, channels, noise, intensities and brightness."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dae.noise.estimation import PERCENTILES, drop_blank, estimate_level
from dae.schemas import DomainWarning, Images, TrainingDomain

SCATTER = 1.25
"""By which factor an estimate from one small image may lie off."""


SMALLEST = 16
"""Side of an image, in pixels, below which nothing is said of it."""


BLOCK = 7


MARGIN = 0.1


PLAIN, CUT_OFF, GOES_ON = 0.1, 0.25, 0.3
"""Noise that is more than the edges of a drawing; a share of pixels at an end of the range as a plain ground has; and how
many of these there are within the noise's standard deviation of it: two thirds in Gaussian noise, few in a dark drawing."""


FAR = (4.0, 1.4)
"""By which factor noise may be below, and above, that of the training before the model likely does harm.

Strong noise that a file cuts off at 0 and 1 has a standard deviation of no more than a half, so a little more says much."""


RESIZED, BRIGHT = 2.0, 1.25
"""By which factor the sides of an image, and its mean intensity, may lie off."""


FAINT = 0.3
"""A range that ends below this share of the training images' is that of other units: 14 bits of 16 are 0.25."""


VERY_FAINT = 0.1
"""The same, where nothing of the image would be left: 12 bits of 16 are 0.06."""


def find_domain_warnings(
    sample: list[Images], shape: tuple[int, ...], highest: float, trained: TrainingDomain, *, grey: bool = False
) -> list[DomainWarning]:
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
    found = [*_check_channels(channels, trained.image_shape[2]), *_check_size(shape, trained)]
    sides = zip(sample[0].shape[:2], trained.image_shape[:2], strict=True)
    if any(side < min(SMALLEST, usual) for side, usual in sides):
        return found
    with np.errstate(all="ignore"):  # values near the end of the range of floats
        return [*found, *_check_noise(drop_blank(sample), highest, trained)]


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
        advice="cut it into such, or take a model that was trained with train.page_share or data.patch",
    )


def _check_noise(sample: list[Images], highest: float, trained: TrainingDomain) -> list[DomainWarning]:
    if not sample:
        return []
    found = estimate_level(sample)
    within = all(patch.min() >= 0 and patch.max() <= 1 for patch in sample)
    lowest, most = (trained.noise_sigma_within if within else None) or trained.noise_sigma
    if other_range := _check_range(sample, highest, max(found, most), trained.intensity):
        return other_range
    said = list(_check_brightness(sample, trained))
    if not lowest / SCATTER <= found <= most * SCATTER:
        much = found > most
        said.append(
            DomainWarning(
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
            DomainWarning(
                about="clipping",
                text="its noise seems to be cut off at 0 and 1, as it is in most files, "
                "and the model was trained on noise that goes beyond",
                advice="take a model that was trained with noise.file_share above 0",
            )
        )
    return said


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


def _check_range(
    sample: list[Images], highest: float, noise: float, trained: tuple[float, float]
) -> list[DomainWarning]:
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
    return [DomainWarning(about="intensities", text=text, advice=advice, harmful=harmful)]


def _local_means(patch: Images) -> NDArray[np.float32]:
    """Return the means of blocks of pixels side by side."""
    height, width = (min(BLOCK, side) for side in patch.shape[:2])
    rows, columns = patch.shape[0] // height, patch.shape[1] // width
    blocks = patch[: rows * height, : columns * width].reshape(rows, height, columns, width, -1)
    return np.asarray(blocks.mean(axis=(1, 3)).ravel(), np.float32)
