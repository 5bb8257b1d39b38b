r"""The laws of noise. Each kind is a frozen configuration that is also the function that applies it.

A kind maps clean images ``x``, float32 of shape ``(N, H, W, C)`` in [0, 1], to noisy ones ``y`` of the same shape and dtype,
drawing from an explicit generator. Nothing is clipped here: `corrupt` does so to the images it makes as a file holds them. The
default strengths are those of
"Convolutional Denoising Autoencoders for image noise reduction" (2020).
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from pydantic_core import core_schema

from dae.extensions import NOISE_KINDS, REFERENCE, ExtensionError
from dae.noise.nonzero_pixels import NonzeroPixels
from dae.noise.sampling import LARGEST_MEAN, draw_poisson_of_levels, draw_standard_normal
from dae.noise.strength import AmountOrRange, PeakOrRange, StrengthOrRange, StrengthRange
from dae.schemas import EIGHT_BIT, FrozenModel, Images, reject_bool

PIXELS = 2**17
"""Pixels made noisy at a time: few enough to stay in the processor's cache."""
POWERS = tuple(2.0**k for k in range(9))
"""The peaks that the number of grey levels of an 8-bit image can give."""


class NoiseKind(FrozenModel, ABC):
    """A law of noise. A subclass with a line in `dae.extensions.NOISE_KINDS` is a kind everywhere.

    Attributes
    ----------
    strength : str
        Name of the field with the strength of the noise.
    sweep : tuple of float
        The strengths at which `dae strengths` scores a model, from weak noise to strong.
    weight : float
        Share of the images in a mix that have this noise, relative to the weights of the other kinds.
    """

    strength: ClassVar[str]
    sweep: ClassVar[tuple[float, ...]]

    kind: str
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(reject_bool)] = Field(
        1.0, description="share of the images, relative to the other weights"
    )

    @property
    def name(self) -> str:
        """The name in tables, metrics and figures: that of the kind, or of a user's class without its module."""
        return self.kind.rpartition(":")[2]

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return noisy images for clean ones in [0, 1], both float32 of shape ``(N, H, W, C)``."""
        noisy = np.array(images, order="C")
        for rows in split_rows(np.arange(len(noisy)), noisy.shape):
            self.add_to(noisy[rows[0] : rows[-1] + 1], rng)
        return noisy

    @abstractmethod
    def add_to(self, images: Images, rng: np.random.Generator) -> None:
        """Turn clean images into noisy ones in place; they lie in memory without gaps."""

    def strengths(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return each image's strength, shape ``(count,)``; without a range that of all, shape ``(1,)``, undrawn."""
        setting = getattr(self, self.strength)
        return setting.draw(count, rng) if isinstance(setting, StrengthRange) else np.array([setting], np.float64)


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
    sweep: ClassVar[tuple[float, ...]] = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
    kind: Literal["gaussian"] = "gaussian"
    variance: StrengthOrRange = Field(0.1, description="y = x + N(0, variance)")

    def add_to(self, images: Images, rng: np.random.Generator) -> None:  # noqa: D102
        noise = draw_standard_normal(images.size, rng).reshape(images.shape)
        noise *= np.sqrt(self.strengths(len(images), rng)).astype(np.float32)[:, None, None, None]
        images += noise


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
    sweep: ClassVar[tuple[float, ...]] = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
    kind: Literal["salt_and_pepper"] = "salt_and_pepper"
    amount: AmountOrRange = Field(0.1, description="share of the pixels that are drawn")
    salt_share: Annotated[float, Field(ge=0, le=1), BeforeValidator(reject_bool)] = Field(
        0.9, description="share of the drawn pixels that are set to 1; the others are set to 0"
    )

    def counts(self, pixels: int, amounts: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return how many salt and how many pepper positions are drawn in images of so many pixels, at these amounts."""
        salt = amounts * pixels * self.salt_share
        pepper = amounts * pixels * (1.0 - self.salt_share)
        # Rounded first: 3.0000000000000004 positions are 3, not 4.
        return np.ceil(np.round(salt, 9)).astype(np.intp), np.ceil(np.round(pepper, 9)).astype(np.intp)

    def add_to(self, images: Images, rng: np.random.Generator) -> None:  # noqa: D102
        count, height, width, channels = images.shape
        first = np.arange(0, count * height * width, height * width)
        pixels = images.reshape(count * height * width, channels)
        for value, drawn in zip((1, 0), self.counts(height * width, self.strengths(count, rng)), strict=True):
            positions = np.repeat(first, drawn)
            positions += rng.integers(height * width, size=len(positions), dtype=np.int32)
            for channel in range(channels):  # along a single axis NumPy's indexing is three times as fast
                pixels[:, channel][positions] = value


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
    sweep: ClassVar[tuple[float, ...]] = (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
    kind: Literal["poisson"] = "poisson"
    peak: PeakOrRange = Field(
        "grey_levels", description="y = Poisson(x peak) / peak; grey_levels: from each image's number of grey levels"
    )

    def add_to(self, images: Images, rng: np.random.Generator) -> None:  # noqa: D102
        nonzero = NonzeroPixels.of(images)
        peaks = nonzero.grey_level_peaks() if self.peak == "grey_levels" else self.strengths(len(images), rng)
        peaks = np.broadcast_to(peaks.astype(np.float32), len(images))
        nonzero.put(draw_shot_noise(nonzero, peaks, rng, tables=not isinstance(self.peak, StrengthRange)))


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
    sweep: ClassVar[tuple[float, ...]] = (0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 4, 8)
    kind: Literal["speckle"] = "speckle"
    variance: StrengthOrRange = Field(1.0, description="y = x + x N(0, variance)")

    def add_to(self, images: Images, rng: np.random.Generator) -> None:  # noqa: D102
        nonzero = NonzeroPixels.of(images)  # elsewhere there is nothing to multiply
        noise = draw_standard_normal(nonzero.values.size, rng)
        sigmas = np.sqrt(self.strengths(len(images), rng)).astype(np.float32)
        noise *= sigmas if len(sigmas) == 1 else nonzero.spread(sigmas)
        noise += 1
        noise *= nonzero.values
        nonzero.put(noise)


class _AnyKind:
    """How pydantic validates a kind of noise: by the class that `NOISE_KINDS` has for its name when it is validated."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(make_kind)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, handler: Any) -> dict[str, Any]:
        members = [handler(kind.__pydantic_core_schema__) for _, kind in NOISE_KINDS.items()]
        name = {"type": "string", "pattern": f"^{REFERENCE.pattern}$"}
        own = {"title": "Your own", "type": "object", "properties": {"kind": name}, "required": ["kind"]}
        return {"anyOf": [*members, own]}


Noise = Annotated[NoiseKind, _AnyKind]


def make_kind(value: Any) -> NoiseKind:
    """Return a kind of noise from its configuration.

    Parameters
    ----------
    value : NoiseKind or dict
        A dict has the name of the kind as ``kind``, and its fields.

    Raises
    ------
    ValueError
        If there is no such kind. Pydantic reports fields that break a rule.
    """
    if isinstance(value, NoiseKind):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise ExtensionError(f"must be a kind of noise with its fields, such as {{kind: gaussian}}; received {value!r}")
    kind = NOISE_KINDS.load(value["kind"])
    if not (isinstance(kind, type) and issubclass(kind, NoiseKind)) or inspect.isabstract(kind):
        raise ExtensionError(f"{value['kind']} must be a subclass of dae.noise.kinds.NoiseKind, received {kind!r}")
    return kind.model_validate(value)


def draw_shot_noise(nonzero: NonzeroPixels, peaks: Images, rng: np.random.Generator, *, tables: bool) -> Images:
    r"""Return :math:`\mathrm{Poisson}(x v) / v` of nonzero pixels, the peak :math:`v` of each image given, shape ``(N,)``.

    Tables of the laws make it fast, and take so long to compute that they only pay where the same peaks occur again.
    """
    distinct = set(peaks.tolist())
    known = POWERS if distinct <= set(POWERS) else tuple(sorted(distinct))
    if not tables or nonzero.levels is None or len(known) > len(POWERS) or max(known) > LARGEST_MEAN:
        v = nonzero.spread(peaks)
        return np.asarray(rng.poisson(nonzero.values * v) / v, np.float32)
    return draw_poisson_of_levels(nonzero.levels, known, nonzero.spread(np.searchsorted(known, peaks)), rng)


def split_rows(rows: NDArray[np.intp], shape: tuple[int, ...]) -> Iterator[NDArray[np.intp]]:
    """Yield rows of images of a shape, so many at a time that they stay in the processor's cache."""
    size = max(1, PIXELS // max(1, math.prod(shape[1:])))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def to_8bit(images: Images) -> Images:
    """Return images as an 8-bit file holds them: clipped to [0, 1] and rounded to 256 levels.

    Examples
    --------
    >>> to_8bit(np.array([-0.2, 0.5, 1.3], np.float32)).tolist() == [0, np.float32(128 / 255), 1]
    True
    """
    levels = np.rint(np.clip(images, 0, 1) * np.float32(255))
    return np.asarray(levels / np.float32(255), np.float32)


def noise_shares(kinds: Sequence[NoiseKind], file_share: float) -> dict[str, float]:
    """Return what an image can get, in the order `corrupt` numbers it, with the share of the images that get it.

    Each kind of noise stands under its name as its law draws it, and with `EIGHT_BIT` added as an 8-bit file holds it.

    Examples
    --------
    >>> noise_shares([Gaussian(), Poisson()], 0.5)
    {'gaussian': 0.25, 'poisson': 0.25, 'gaussian_8bit': 0.25, 'poisson_8bit': 0.25}
    """
    total = sum(kind.weight for kind in kinds)
    forms = {"": 1 - file_share, EIGHT_BIT: file_share}
    return {
        kind.name + suffix: share * kind.weight / total for suffix, share in forms.items() if share for kind in kinds
    }


def corrupt(
    images: Images, kinds: Sequence[NoiseKind], rng: np.random.Generator, *, file_share: float = 0.0
) -> tuple[Images, NDArray[np.uint8]]:
    """Add to each image noise of one kind, drawn by weight, and make some of them what an 8-bit file holds.

    Parameters
    ----------
    images : ndarray of float32, shape (N, H, W, C)
        Clean images in [0, 1].
    kinds : sequence of NoiseKind
        The mix, not empty.
    rng : numpy.random.Generator
        Source of every draw.
    file_share : float
        Share of the images, in [0, 1], that are clipped to [0, 1] and rounded to 8 bits, drawn for each by itself.

    Returns
    -------
    noisy : ndarray of float32, shape (N, H, W, C)
    drawn : ndarray of uint8, shape (N,)
        Index into `noise_shares` of what each image got.

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
        for rows in split_rows(np.flatnonzero(drawn == index), images.shape):
            part = np.ascontiguousarray(images[rows])  # noise is added in place
            kind.add_to(part, rng)
            noisy[rows] = part
    # Drawn last, and only where it is open: the noise is the same with and without files.
    filed = rng.random(len(images)) < file_share if 0 < file_share < 1 else np.full(len(images), file_share == 1)
    noisy[filed] = to_8bit(noisy[filed])
    return noisy, drawn + np.uint8(len(kinds)) * filed if 0 < file_share < 1 else drawn
