"""Samplers of the normal and the Poisson law, of whole-vector operations alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dae.noise.nonzero_pixels import LEVELS

PAIRS = 2**15
"""Pairs of normal values computed at a time: few enough to stay in the processor's cache."""
COLUMNS = 256
"""Counts that a table of a Poisson law holds, the likeliest; of a mean up to `LARGEST_MEAN` all but a share of 1e-13."""
LARGEST_MEAN = 256.0

Floats = NDArray[np.float32]


def draw_words(count: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    """Return independent uniform 32-bit words, two from each 64-bit draw."""
    return rng.integers(2**64, size=-(-count // 2), dtype=np.uint64).view(np.uint32)[:count]


def draw_standard_normal(count: int, rng: np.random.Generator) -> Floats:
    r"""Return independent standard normal values, float32, shape ``(count,)``.

    Box and Muller, "A note on the generation of random normal deviates" (1958): two values from two uniform ones, by
    functions that NumPy computes on whole vectors. Of the uniform values' 32 bits follows the largest magnitude,
    :math:`\sqrt{66 \ln 2} = 6.8`, beyond which a normal value lies once in :math:`10^{11}`.
    """
    values = np.empty(count, np.float32)
    for start in range(0, count, 2 * PAIRS):
        _box_muller(values[start : start + 2 * PAIRS], rng)
    return values


def _box_muller(values: Floats, rng: np.random.Generator) -> None:
    pairs = -(-len(values) // 2)
    words = draw_words(2 * pairs, rng)
    radius = words[:pairs].astype(np.float32)
    radius += np.float32(0.5)  # above 0: the logarithm is finite
    radius *= np.float32(2**-32)
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    angle = words[pairs:].view(np.int32).astype(np.float32)  # signed: the cast is twice as fast
    angle *= np.float32(np.pi * 2**-31)
    cosines, sines = values[:pairs], values[pairs:]
    np.cos(angle, out=cosines)
    np.sin(angle[: len(sines)], out=sines)
    cosines *= radius
    sines *= radius[: len(sines)]


def draw_poisson_of_levels(
    levels: NDArray[np.intp], peaks: tuple[float, ...], chosen: NDArray[np.intp], rng: np.random.Generator
) -> Floats:
    r"""Return independent values :math:`\mathrm{Poisson}(k v / 255) / v`, float32, by one look-up in alias tables each.

    Walker, "An efficient method for generating discrete random variables with general distributions" (1977): a column is
    drawn, then its own value or its alias. Of a random word, 8 bits are the column and 24 decide, so that the
    probabilities are those of the law to :math:`2^{-32}`.

    Parameters
    ----------
    levels : ndarray of int, shape (n,)
        :math:`k`, from 0 to 255.
    peaks : tuple of float
        The peaks :math:`v` that occur, at most `LARGEST_MEAN`.
    chosen : ndarray of int, shape (n,)
        Index into `peaks` of each value's.
    rng : numpy.random.Generator
    """
    thresholds, values = build_alias_tables(peaks)
    words = draw_words(len(levels), rng)
    cells = chosen * (LEVELS * COLUMNS)
    cells += levels * COLUMNS
    cells += words >> 24
    words <<= 8
    alias = words >= thresholds.take(cells, mode="clip")  # clip: the only mode that skips a check and a copy
    cells *= 2
    cells += alias
    return values.take(cells, mode="clip")


@lru_cache(maxsize=8)
def build_alias_tables(peaks: tuple[float, ...]) -> tuple[NDArray[np.uint32], Floats]:
    """Return the alias tables of the Poisson laws of all grey levels under some peaks.

    Returns
    -------
    thresholds : ndarray of uint32, shape (len(peaks) * LEVELS * COLUMNS,)
        The column's alias is drawn at and above it.
    values : ndarray of float32, shape (len(peaks) * LEVELS * COLUMNS * 2,)
        Each column's own value and its alias.
    """
    tables = [_build_alias_table(peak) for peak in peaks]
    return np.concatenate([own for own, _ in tables]), np.concatenate([values for _, values in tables])


def _build_alias_table(peak: float) -> tuple[NDArray[np.uint32], Floats]:
    means = np.arange(LEVELS)[:, None] * (peak / (LEVELS - 1))
    counts = np.maximum(0, np.rint(means) - COLUMNS // 2) + np.arange(COLUMNS)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, counts.max() + 1)))])
    log_weights = counts * np.log(np.maximum(means, 1e-300)) - means - log_factorials[counts.astype(np.intp)]
    keep, alias = build_walker_tables(np.exp(log_weights))
    values = np.stack([counts, np.take_along_axis(counts, alias, axis=1)], axis=-1) / peak
    return np.minimum(np.rint(keep * 2.0**32), 2**32 - 1).astype(np.uint32).ravel(), values.astype(np.float32).ravel()


def build_walker_tables(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return Walker's alias table of each row of weights: the share that a column keeps, and the column of the rest.

    Vose, "A linear algorithm for generating random numbers with a given distribution" (1991), on all rows at once: poor
    columns, from the poorest on, are filled up from the richest; once that is poor itself, it is filled from the next.
    """
    size, rows = weights.shape[1], np.arange(len(weights))
    order = np.argsort(weights, axis=1)
    ordered = np.take_along_axis(weights * (size / weights.sum(axis=1, keepdims=True)), order, axis=1)
    keep, alias = np.ones_like(weights), np.tile(np.arange(size), (len(weights), 1))
    poor, rich = np.zeros_like(rows), np.full_like(rows, size - 1)
    left = ordered[:, -1].copy()
    for _ in range(size - 1):
        drained = left < 1
        column, donor = np.where(drained, rich, poor), rich - drained
        share = np.where(drained, left, ordered[rows, poor])
        keep[rows, order[rows, column]] = share
        alias[rows, order[rows, column]] = order[rows, donor]
        left = np.where(drained, ordered[rows, donor], left) - (1 - share)
        poor, rich = poor + ~drained, donor
    return np.clip(keep, 0, 1), alias
