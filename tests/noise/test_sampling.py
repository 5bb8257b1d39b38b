"""The samplers against their exact laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from dae.noise.kinds import Poisson, draw_shot_noise
from dae.noise.nonzero_pixels import LEVELS, NonzeroPixels
from dae.noise.sampling import (
    COLUMNS,
    LARGEST_MEAN,
    PAIRS,
    build_alias_tables,
    build_walker_tables,
    draw_poisson_of_levels,
    draw_standard_normal,
)
from dae.schemas import Images

DRAWS = 400_000


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


def chi_square(found: NDArray[np.intp], expected: NDArray[np.float64]) -> float:
    """Return the p-value of counts, those expected less than 8 times pooled at either end."""
    kept = np.flatnonzero(expected >= 8)
    first, last = kept[0], kept[-1] + 1
    pooled = [
        np.concatenate([[part[:first].sum()], part[first:last], [part[last:].sum()]]) for part in (found, expected)
    ]
    used = pooled[1] > 0.5
    statistic = float(np.sum((pooled[0] - pooled[1])[used] ** 2 / pooled[1][used]))
    return float(stats.chi2.sf(statistic, used.sum() - 1))


# Normal values


@pytest.mark.parametrize("count", [0, 1, 2, 2 * PAIRS - 1, 2 * PAIRS + 1])
def test_as_many_normal_values_as_asked_for_each_drawn_once(count: int) -> None:
    values = draw_standard_normal(count, generator())
    assert values.shape == (count,)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert len(np.unique(values)) >= 0.98 * count  # of 24 bits each


def test_normal_values_follow_the_normal_law_in_the_middle_and_in_the_tails() -> None:
    values = draw_standard_normal(4_000_000, generator()).astype(np.float64)
    assert stats.kstest(values[:DRAWS], "norm").pvalue > 1e-3
    edges = np.concatenate([[-np.inf], np.linspace(-4.8, 4.8, 97), [np.inf]])
    found = np.histogram(values, edges)[0]
    assert chi_square(found, np.diff(stats.norm.cdf(edges)) * len(values)) > 1e-3
    assert 4.7 < np.abs(values).max() < 6.8


@pytest.mark.parametrize("lag", [1, 2, 7, PAIRS, 2 * PAIRS], ids=str)
@pytest.mark.parametrize("moment", [lambda v: v, np.square, np.abs], ids=["values", "squares", "magnitudes"])
def test_normal_values_are_independent_near_and_far_also_within_a_pair(lag: int, moment: np.ufunc) -> None:
    values = moment(draw_standard_normal(20 * PAIRS, generator()).astype(np.float64))
    assert abs(np.corrcoef(values[lag:], values[:-lag])[0, 1]) < 4.5 / math.sqrt(len(values) - lag)


def test_the_two_normal_values_of_a_pair_have_a_uniform_angle() -> None:
    first, second = draw_standard_normal(2 * PAIRS, generator()).reshape(2, PAIRS)
    assert stats.kstest(np.arctan2(second, first), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


# Poisson values


def test_walkers_tables_hold_the_weights_exactly() -> None:
    weights = generator().random((30, 64)) ** 6
    weights[0], weights[1, 1:], weights[2, ::2] = 1, 0, 0
    keep, alias = build_walker_tables(weights)
    law = keep / 64
    np.add.at(law, (np.arange(30)[:, None], alias), (1 - keep) / 64)
    np.testing.assert_allclose(law, weights / weights.sum(axis=1, keepdims=True), atol=1e-13)


@pytest.mark.parametrize("peak", [1.0, 30.0, 128.0, LARGEST_MEAN])
def test_the_tables_hold_the_poisson_laws_of_all_levels_to_the_last_bit_of_a_word(peak: float) -> None:
    thresholds, values = build_alias_tables((peak,))
    keep = thresholds.reshape(LEVELS, COLUMNS) / 2**32
    counts = np.rint(values.reshape(LEVELS, COLUMNS, 2) * peak).astype(int)
    law = np.zeros((LEVELS, 600))
    for side, share in enumerate((keep, 1 - keep)):
        np.add.at(law, (np.arange(LEVELS)[:, None], counts[..., side]), share / COLUMNS)
    exact = stats.poisson.pmf(np.arange(600), np.arange(LEVELS)[:, None] * (peak / 255))
    assert np.abs(law - exact).max() < 2**-32
    assert np.abs(law - exact).sum(axis=1).max() < 1e-7


@pytest.mark.parametrize(
    ("level", "peak"),
    [(1, 2.0), (1, 255.0), (255, 1.0), (200, 4.0), (128, 50.0), (255, 128.0), (255, 256.0), (255, 1000.0), (3, 1e4)],
)
@pytest.mark.parametrize("offset", [0.0, 1e-4], ids=["8 bits", "floats"])
def test_poisson_values_follow_the_poisson_law_with_its_tails(level: int, peak: float, offset: float) -> None:
    x = np.float32(level) / np.float32(255) * np.float32(1 - offset)
    images = np.full((1, 2, DRAWS // 2, 1), x, np.float32)
    counts = np.rint(Poisson(peak=peak)(images, generator(7)).ravel() * np.float64(peak)).astype(np.intp)
    mean = float(x) * peak
    expected = stats.poisson.pmf(np.arange(counts.max() + 2), mean) * DRAWS
    assert chi_square(np.bincount(counts, minlength=len(expected)), expected) > 1e-3
    assert stats.poisson.sf(counts.max(), mean) * DRAWS > 1e-3  # no count beyond what the law gives so many draws


@pytest.mark.parametrize("level", [10, 200])
def test_poisson_values_of_neighbours_are_independent(level: int) -> None:
    levels = np.full(DRAWS, level)
    values = draw_poisson_of_levels(levels, (64.0,), np.zeros_like(levels), generator()).astype(np.float64)
    for lag in (1, 2, 3, 28):
        for part in (values, np.square(values - values.mean())):
            assert abs(np.corrcoef(part[lag:], part[:-lag])[0, 1]) < 4.5 / math.sqrt(DRAWS)


@pytest.mark.parametrize(
    "peaks",
    [[1, 64, 256], [3, 50.5, 200], [1, 5, 2000], list(np.linspace(1, 99, 12))],
    ids=["powers", "few", "large", "many"],
)
@pytest.mark.parametrize("tables", [True, False])
def test_each_image_gets_the_noise_of_its_own_peak(peaks: list[float], tables: bool) -> None:
    images = np.full((len(peaks), 200, 200, 1), np.float32(153) / np.float32(255), np.float32)
    images[:, ::2] = 0
    lit = NonzeroPixels.of(images)
    lit.put(draw_shot_noise(lit, np.array(peaks, np.float32), generator(), tables=tables))
    assert (images[:, ::2] == 0).all()
    for image, peak in zip(images[:, 1::2].astype(np.float64), peaks, strict=True):
        assert image.mean() == pytest.approx(0.6, abs=4.5 * math.sqrt(0.6 / peak / image.size))
        assert image.var() == pytest.approx(0.6 / peak, rel=0.07)


# Lit pixels


@pytest.mark.parametrize("share", [0.0, 0.2, 0.8, 1.0])
def test_lit_pixels_are_picked_out_with_their_images_and_put_back(share: float) -> None:
    rng = generator(3)
    levels = np.where(rng.random((5, 6, 7, 3)) < share, rng.integers(1, 256, (5, 6, 7, 3)), 0)
    images: Images = levels.astype(np.float32) / np.float32(255)
    lit = NonzeroPixels.of(images)
    assert lit.levels is not None
    numbers = np.broadcast_to(np.arange(5)[:, None, None, None], levels.shape)
    kept = levels > 0 if lit.values.size < levels.size else np.ones_like(levels, bool)
    assert set(np.flatnonzero(levels)) <= set(np.flatnonzero(kept))
    np.testing.assert_array_equal(lit.levels, levels[kept])
    np.testing.assert_array_equal(lit.spread(np.arange(5)), numbers[kept])
    before = images.copy()
    lit.put(lit.values * 2)
    np.testing.assert_array_equal(images, before * 2)


def test_a_value_between_two_levels_of_8_bits_has_no_level() -> None:
    images = np.full((1, 4, 4, 1), np.float32(100) / np.float32(255), np.float32)
    assert NonzeroPixels.of(images).levels is not None
    images[0, 3, 3] = np.nextafter(images[0, 3, 3], np.float32(1))
    assert NonzeroPixels.of(images).levels is None


# Pinned draws: a change of any sampler alters every frozen set of noise


def test_the_draws_of_a_seed_stay_what_they_are() -> None:
    normal = draw_standard_normal(4, generator(1))
    counts = draw_poisson_of_levels(np.arange(0, 256, 51), (128.0,), np.zeros(6, np.intp), generator(1)) * 128
    np.testing.assert_allclose(normal, [-1.1793932, -0.0650439, -0.6262662, 0.0674418], rtol=1e-5)
    assert counts.tolist() == [0, 25, 55, 95, 124, 147]
