"""Paired comparison of the errors of two models, or of errors with a number, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dae import random_streams
from dae.evaluation.metrics import Values
from dae.schemas import FrozenModel

RESAMPLES = 2000
BATCH_VALUES = 2**22


def compare_errors(
    challenger: Values, champion: Values, drawn: NDArray[np.uint8], kinds: Sequence[str], confidence: float
) -> PairedComparison:
    """Compare the errors of two models on the same noisy images, overall and for each kind of noise.

    Parameters
    ----------
    challenger, champion : ndarray of float64, shape (N,)
        Mean squared error of each image.
    drawn : ndarray of uint8, shape (N,)
        Index into `kinds` of the noise each image got.
    kinds : sequence of str
    confidence : float
        Of the intervals, in (0, 1).

    Returns
    -------
    Comparison
    """
    groups = {kind: drawn == index for index, kind in enumerate(kinds)}
    return PairedComparison(
        confidence=confidence,
        pooled=compare_paired(challenger, champion, confidence),
        per_kind={kind: compare_paired(challenger[rows], champion[rows], confidence) for kind, rows in groups.items()},
    )


def compare_paired(challenger: Values, champion: Values, confidence: float) -> PairedDifference:
    """Return both means and the percentile interval of ``mean(challenger) / mean(champion) - 1`` over resampled images.

    The resamples are drawn from a fixed seed, so a lower error of any image never raises an end of the interval. With fewer
    than two images, or an error that is not finite, no interval is known, and it is infinite.

    Notes
    -----
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13, as ``scipy.stats.bootstrap`` computes it.

    Examples
    --------
    >>> champion = np.linspace(0.001, 0.003, 500)
    >>> result = compare_paired(0.9 * champion, champion, 0.95)
    >>> round(result.low, 6), round(result.high, 6)
    (-0.1, -0.1)
    """
    from scipy import stats

    count = len(challenger)
    means = (float(errors.mean()) if count else float("nan") for errors in (challenger, champion))
    low, high = -np.inf, np.inf
    if count >= 2 and np.isfinite(challenger).all() and np.isfinite(champion).all():
        with np.errstate(invalid="ignore"):  # of infinite differences, which refuse
            result = stats.bootstrap(
                (challenger, champion),
                _relative_difference,
                n_resamples=RESAMPLES,
                batch=max(1, BATCH_VALUES // count),
                vectorized=True,
                paired=True,
                confidence_level=confidence,
                method="percentile",
                rng=random_streams.make_stream(0, "bootstrap"),
            )
        low, high = result.confidence_interval
    first, second = means
    return PairedDifference(challenger=first, champion=second, low=float(low), high=float(high), count=count)


def weighted_interval(
    groups: Sequence[Values], weights: Sequence[float], reference: float, confidence: float
) -> tuple[float, float]:
    """Return the percentile interval of ``sum(weights * means of groups) / reference - 1``, each group resampled by itself.

    Parameters
    ----------
    groups : sequence of ndarray of float64
        Errors, finite, at least two in each group.
    weights : sequence of float
        Of the groups, adding up to 1.
    reference : float
        What the weighted mean is compared with.
    confidence : float
        Of the interval, in (0, 1).
    """
    from scipy import stats

    def statistic(*samples: Any, axis: int = -1) -> Any:
        means = [weight * sample.mean(axis=axis) for weight, sample in zip(weights, samples, strict=True)]
        return relative_rise(np.sum(means, axis=0), reference)

    with np.errstate(invalid="ignore"):  # of infinite rises above a perfect reference
        result = stats.bootstrap(
            tuple(groups),
            statistic,
            n_resamples=RESAMPLES,
            batch=max(1, BATCH_VALUES // sum(map(len, groups))),
            vectorized=True,
            confidence_level=confidence,
            method="percentile",
            rng=random_streams.make_stream(0, "bootstrap"),
        )
    low, high = result.confidence_interval
    return float(low), float(high)


def relative_rise(value: Any, reference: Any) -> Any:
    """Return ``value / reference - 1``. Against a reference of 0, a value of 0 gives 0 and any other gives infinity.

    Examples
    --------
    >>> relative_rise(np.array([0.5, 1.5]), 1.0).tolist(), relative_rise(0.0, 0.0).tolist()
    ([-0.5, 0.5], 0.0)
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.divide(value, reference) - 1
    return np.where(np.equal(reference, 0), np.where(np.equal(value, 0), 0.0, np.inf), ratio)


def _relative_difference(challenger: Any, champion: Any, axis: int = -1) -> Any:
    return relative_rise(challenger.mean(axis=axis), champion.mean(axis=axis))


class PairedDifference(FrozenModel):
    """MSE of challenger and champion on the same images, and the interval of their relative difference.

    Attributes
    ----------
    low, high : float
        Ends of the bootstrap interval of ``challenger / champion - 1``.
    count : int
        Number of images.
    """

    challenger: float
    champion: float
    low: float
    high: float
    count: int


class PairedComparison(FrozenModel):
    """Challenger and champion, scored now on the same frozen noisy validation images."""

    confidence: float
    pooled: PairedDifference
    per_kind: dict[str, PairedDifference]
