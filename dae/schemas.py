"""The small frozen records that travel between tasks: paths, digests, ids and scores, never an array or a live model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

EIGHT_BIT = "_8bit"
"""Ends the name of a kind of noise in images that are as an 8-bit file holds them."""
Images = NDArray[np.float32]


class FrozenModel(BaseModel):
    """Immutable pydantic model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def reject_bool(value: Any) -> Any:
    """Refuse true and false where a number is due: Python takes them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004  (what pydantic turns into its own error)
    return value


class ImageSet(FrozenModel):
    """One split of clean images, stored as a uint8 memory map.

    Attributes
    ----------
    path : str
        The ``.npy`` file, uint8, shape ``(count, height, width, channels)``.
    sha256 : str
        Digest over every byte of the pixels (the header excluded).
    """

    path: str
    sha256: str
    count: int
    height: int
    width: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, ``(height, width, channels)``."""
        return (self.height, self.width, self.channels)


class ImageSets(FrozenModel):
    """What ingest makes: the three splits of one image source."""

    source: str
    digest: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet


class NoisySet(FrozenModel):
    """A split with its noise drawn once and stored.

    Attributes
    ----------
    clean : ImageSet
        The images the noise was added to.
    path : str
        The noisy images, a float32 ``.npy`` of the same shape as the clean ones.
    kinds_path : str
        A uint8 ``.npy`` of shape ``(count,)``: the index into `kinds` of the noise each image got.
    sha256 : str
        Digest over every byte of the noisy pixels and of the kinds.
    """

    clean: ImageSet
    path: str
    kinds_path: str
    kinds: tuple[str, ...]
    sha256: str


class NoisySets(FrozenModel):
    """What corrupt makes. `train` is None where training noise is fresh every epoch."""

    train: NoisySet | None
    validation: NoisySet
    test: NoisySet


class TrainingDomain(FrozenModel):
    """The training domain of a model. It is stored with the model, to warn about images outside of it.

    Attributes
    ----------
    image_shape : tuple of int
        ``(H, W, C)`` of the training images.
    noise_sigma : tuple of float
        Lowest and highest standard deviation of the noise, as estimated from the frozen noisy validation images.
    intensity : tuple of float
        Lowest and highest intensity of the clean images, in [0, 1].
    unclipped : bool
        Whether all noisy images are as the law draws them, beyond [0, 1], which no image file holds.
    windows : bool or None
        Whether they are windows of larger images, so that it takes images of any size; None: not recorded.
    brightness : tuple of float or None
        Lowest and highest mean intensity of the noisy images.
    noise_sigma_within : tuple of float or None
        As `noise_sigma`, of noisy images that lie in [0, 1], as those in files do, where strong noise is cut off.
    """

    image_shape: tuple[int, int, int]
    noise_sigma: tuple[float, float]
    intensity: tuple[float, float]
    unclipped: bool = False
    windows: bool | None = None
    brightness: tuple[float, float] | None = None
    noise_sigma_within: tuple[float, float] | None = None


class DomainWarning(FrozenModel):
    """How an image differs from what a model was made for, and what to do.

    Attributes
    ----------
    about : str
        What it is that differs; it is said once, however many files it holds for.
    text : str
        In words, with figures.
    advice : str
        What to do.
    harmful : bool
        Whether the model would likely do harm, so that it must be requested explicitly.
    """

    about: Literal["size", "channels", "noise", "clipping", "intensities", "brightness"]
    text: str
    advice: str
    harmful: bool = False

    def __str__(self) -> str:
        """Return what there is to say."""
        return f"{self.text}: {self.advice}"


class TrainedModel(FrozenModel):
    """The model that was logged, by its exact URI, and how its training went."""

    run_id: str
    model_id: str
    model_uri: str
    epochs: int
    best_epoch: int
    best_val_mse: float
    parameters: int
    seconds: float


class Quality(FrozenModel):
    """Mean quality of a group of restored images: MSE in squared intensity, PSNR in decibels, SSIM in [-1, 1].

    `others` has the means of metrics that were added to these, by name.
    """

    mse: float
    psnr: float
    ssim: float
    count: int
    others: dict[str, float] = {}

    def values(self) -> dict[str, float]:
        """Return the mean of each metric, by name."""
        return {"mse": self.mse, "psnr": self.psnr, "ssim": self.ssim} | self.others


def pool_quality(groups: Sequence[Quality]) -> Quality:
    """Return the quality of several groups of images together; none of them is empty."""
    count = sum(group.count for group in groups)
    means = {
        name: math.fsum(group.values()[name] * group.count for group in groups) / count for name in groups[0].values()
    }
    return make_quality(means, count)


def make_quality(means: Mapping[str, float], count: int) -> Quality:
    """Return the quality of `count` images from the mean of each metric."""
    main = {name: means[name] for name in ("mse", "psnr", "ssim")}
    return Quality(**main, count=count, others={name: mean for name, mean in means.items() if name not in main})


class SplitScores(FrozenModel):
    """Quality on one frozen noisy set, pooled and per noise kind, of the model and of the noisy input."""

    pooled: Quality
    pooled_nothing: Quality
    per_kind: dict[str, Quality]
    per_kind_nothing: dict[str, Quality]

    def per_form(self) -> dict[str, tuple[Quality, Quality]]:
        """Return the quality of the model and of the noisy input, over all kinds as drawn and over all as in files.

        Empty where the images have one form only.
        """
        kinds = {kind for kind, quality in self.per_kind.items() if quality.count and kind in self.per_kind_nothing}
        forms = {
            "drawn": {kind for kind in kinds if not kind.endswith(EIGHT_BIT)},
            "8bit": {kind for kind in kinds if kind.endswith(EIGHT_BIT)},
        }
        if not all(forms.values()):
            return {}
        return {
            form: (
                pool_quality([self.per_kind[kind] for kind in members]),
                pool_quality([self.per_kind_nothing[kind] for kind in members]),
            )
            for form, members in forms.items()
        }


class CleanInput(FrozenModel):
    """By how much a model changes what it should leave alone: mean squared changes, in squared intensity.

    Attributes
    ----------
    images : float
        Clean images.
    borders : float
        Their outermost pixels.
    constants : float
        Images of a single value, the worst of five from 0 to 1.
    bars : float
        Black and white bars above and below noisy images, the worse of the two.
    own_output : float
        What the model itself made of noisy images.
    """

    images: float
    borders: float
    constants: float
    bars: float
    own_output: float


class Scores(FrozenModel):
    """What evaluate found for one logged model. `clean_input` is None in scores of before it was measured."""

    model_uri: str
    validation: SplitScores
    test: SplitScores
    images_per_second: float
    clean_input: CleanInput | None = None
