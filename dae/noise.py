r"""The laws of noise. Each kind is a frozen configuration that is also the function that applies it.

A kind maps clean images ``x``, float32 of shape ``(N, H, W, C)`` in [0, 1], to noisy ones ``y`` of the same shape and dtype,
drawing from an explicit generator. Nothing is clipped here: `corrupt` does so on request. The default strengths are those of
"Convolutional Denoising Autoencoders for image noise reduction" (2020). A strength is a number, or a `Range` from which each
image gets its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from dae.ranges import AmountOrRange, PeakOrRange, Range, StrengthOrRange
from dae.records import Frozen, not_bool

CHUNK = 2**15
"""Normal values computed at a time: few enough to stay in the processor's cache."""

Images = NDArray[np.float32]


class NoiseKind(Frozen, ABC):
    """A noise law. `weight` is its share of the images among the kinds of a mix."""

    strength: ClassVar[str]  # the name of the field that says how strong the noise is

    kind: str
    weight: Annotated[float, BeforeValidator(not_bool), Field(gt=0, allow_inf_nan=False)] = 1.0

    @abstractmethod
    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return noisy images for clean ones in [0, 1], both float32 of shape ``(N, H, W, C)``."""

    def strengths(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return each image's strength, ``(count, 1, 1, 1)``; without a range that of all, ``(1, 1, 1, 1)``, undrawn."""
        setting = getattr(self, self.strength)
        values = setting.draw(count, rng) if isinstance(setting, Range) else np.array([setting], np.float64)
        return np.asarray(values[:, None, None, None])


class Gaussian(NoiseKind):
    r"""Additive white Gaussian noise, :math:`y = x + \mathcal{N}(0, \sigma^2)`, independent for every pixel and channel.

    Parameters
    ----------
    variance : float or Range
        :math:`\sigma^2` in squared intensity, above 0.

    Examples
    --------
    >>> x = np.full((1, 64, 64, 1), 0.5, np.float32)
    >>> y = Gaussian(variance=0.01)(x, np.random.default_rng(0))
    >>> round(float(np.std(y - x)), 2)
    0.1
    """

    strength: ClassVar[str] = "variance"
    kind: Literal["gaussian"] = "gaussian"
    variance: StrengthOrRange = 0.1

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:  # noqa: D102
        noisy = standard_normal(images.shape, rng)
        noisy *= np.sqrt(self.strengths(len(images), rng)).astype(np.float32)
        noisy += images
        return noisy


class SaltAndPepper(NoiseKind):
    r"""Impulse noise: pixels set to 1 (salt), then others to 0 (pepper).

    Of the :math:`n = HW` pixels, :math:`\lceil a n s \rceil` positions are drawn with replacement and set to 1, then
    :math:`\lceil a n (1 - s) \rceil` positions to 0. A colour pixel is hit in all its channels.

    Parameters
    ----------
    amount : float or AmountRange
        :math:`a`, the share of positions drawn, in (0, 1].
    salt_share : float
        :math:`s`, the share of salt among them, in [0, 1].

    Examples
    --------
    >>> y = SaltAndPepper(amount=0.1, salt_share=1.0)(np.zeros((1, 10, 10, 1), np.float32), np.random.default_rng(0))
    >>> sorted(set(y.ravel().tolist())), int(y.sum()) <= 10
    ([0.0, 1.0], True)
    """

    strength: ClassVar[str] = "amount"
    kind: Literal["salt_and_pepper"] = "salt_and_pepper"
    amount: AmountOrRange = 0.1
    salt_share: Annotated[float, BeforeValidator(not_bool), Field(ge=0, le=1)] = 0.9

    def counts(self, pixels: int, amounts: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how many salt and how many pepper positions are drawn in images of so many pixels, at these amounts."""
        salt = amounts * pixels * self.salt_share
        pepper = amounts * pixels * (1.0 - self.salt_share)
        # Rounded first: 3.0000000000000004 positions are 3, not 4.
        return np.ceil(np.round(salt, 9)).astype(np.int64), np.ceil(np.round(pepper, 9)).astype(np.int64)

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:  # noqa: D102
        count, height, width, channels = images.shape
        noisy = images.reshape(count, height * width, channels).copy()
        amounts = self.strengths(count, rng).ravel()
        for value, drawn in zip((1, 0), self.counts(height * width, amounts), strict=True):
            rows = np.repeat(np.arange(count), np.broadcast_to(drawn, count))
            noisy[rows, rng.integers(height * width, size=len(rows), dtype=np.int32)] = value
        return noisy.reshape(images.shape)


class Poisson(NoiseKind):
    r"""Shot noise, :math:`y = \mathrm{Poisson}(x v) / v` with the peak :math:`v` in photons at intensity 1.

    Parameters
    ----------
    peak : float, Range or "grey_levels"
        :math:`v`, above 0; or from each image by itself, :math:`v = 2^{\lceil \log_2 L \rceil}` with :math:`L` the number of
        distinct values in it.

    Notes
    -----
    ``scikit-image``'s ``random_noise`` counts the distinct values of whatever array it is handed; over a batch that gives
    another, weaker noise. Here an image's noise never depends on its neighbours in the batch.

    Examples
    --------
    >>> x = np.full((1, 64, 64, 1), 0.5, np.float32)
    >>> y = Poisson(peak=50)(x, np.random.default_rng(0))
    >>> round(float(np.var(y)), 2)
    0.01
    """

    strength: ClassVar[str] = "peak"
    kind: Literal["poisson"] = "poisson"
    peak: PeakOrRange = "grey_levels"

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:  # noqa: D102
        from_levels = self.peak == "grey_levels"
        peaks = grey_level_peaks(images)[:, None, None, None] if from_levels else self.strengths(len(images), rng)
        peaks = peaks.astype(np.float32)
        noisy = images * peaks
        # Where the expectation is 0 the draw is 0: only lit pixels need one.
        lit = noisy > 0
        noisy[lit] = rng.poisson(noisy[lit])
        noisy /= peaks
        return noisy


class Speckle(NoiseKind):
    r"""Multiplicative noise, :math:`y = x + x\,\mathcal{N}(0, \sigma^2)`, independent for every pixel and channel.

    Parameters
    ----------
    variance : float or Range
        :math:`\sigma^2`, relative to the intensity, above 0.

    Examples
    --------
    >>> float(Speckle()(np.zeros((1, 8, 8, 1), np.float32), np.random.default_rng(0)).max())
    0.0
    """

    strength: ClassVar[str] = "variance"
    kind: Literal["speckle"] = "speckle"
    variance: StrengthOrRange = 1.0

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:  # noqa: D102
        noisy = standard_normal(images.shape, rng)
        noisy *= np.sqrt(self.strengths(len(images), rng)).astype(np.float32)
        noisy += 1
        noisy *= images
        return noisy


Noise = Annotated[Gaussian | SaltAndPepper | Poisson | Speckle, Field(discriminator="kind")]


def standard_normal(shape: tuple[int, ...], rng: np.random.Generator) -> Images:
    """Return independent standard normal values, float32, at more than twice the speed of NumPy's own sampler.

    Box and Muller, "A note on the generation of random normal deviates" (1958): two values from two uniform ones, by
    functions that NumPy computes on whole vectors. The largest magnitude is that of a 24-bit uniform value, 5.8.
    """
    values = np.empty(math.prod(shape), np.float32)
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK]
        pairs = -(-len(part) // 2)
        radius, angle = rng.random((2, pairs), dtype=np.float32)
        np.subtract(1, radius, out=radius)  # in (0, 1]: the logarithm is finite
        np.sqrt(np.multiply(np.log(radius, out=radius), -2, out=radius), out=radius)
        angle *= np.float32(2 * np.pi)
        np.multiply(np.cos(angle), radius, out=part[:pairs])
        np.multiply(np.sin(angle)[: len(part) - pairs], radius[: len(part) - pairs], out=part[pairs:])
    return values.reshape(shape)


def grey_level_peaks(images: Images) -> Images:
    """Return each image's Poisson peak, the power of two at or above its number of distinct values; shape ``(N,)``."""
    ordered = np.sort(images.reshape(len(images), math.prod(images.shape[1:])), axis=1)
    levels = 1 + np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1)
    return np.asarray(np.exp2(np.ceil(np.log2(levels))), np.float32)


def corrupt(
    images: Images, kinds: Sequence[NoiseKind], rng: np.random.Generator, *, clip: bool = False
) -> tuple[Images, NDArray[np.uint8]]:
    """Add to each image noise of one kind, drawn by weight.

    Parameters
    ----------
    images : ndarray of float32, shape (N, H, W, C)
        Clean images in [0, 1].
    kinds : sequence of NoiseKind
        The mix, not empty.
    rng : numpy.random.Generator
        Source of every draw.
    clip : bool
        Clip the noisy images to [0, 1].

    Returns
    -------
    noisy : ndarray of float32, shape (N, H, W, C)
    drawn : ndarray of uint8, shape (N,)
        Index into `kinds` of what each image got.

    Raises
    ------
    ValueError
        If `images` is not a float32 array of rank 4, or `kinds` is empty.
    """
    if images.ndim != 4 or images.dtype != np.float32:
        raise ValueError(
            f"images must be float32 of shape (N, H, W, C), received {images.dtype} of shape {images.shape}"
        )
    if not kinds:
        raise ValueError("kinds must name at least one kind of noise, received none")
    weights = np.array([kind.weight for kind in kinds])
    drawn = rng.choice(len(kinds), size=len(images), p=weights / weights.sum()).astype(np.uint8)
    noisy = np.empty_like(images)
    for index, kind in enumerate(kinds):
        chosen = np.flatnonzero(drawn == index)
        noisy[chosen] = kind(images[chosen], rng)
    return (np.clip(noisy, 0, 1, out=noisy) if clip else noisy), drawn
