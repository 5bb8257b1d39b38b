"""Drift: kinds of noise weighed by their shares, whatever their mix in a few images, with an interval that covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dae.config.schema import NoiseConfig
from dae.evaluation import bootstrap
from dae.monitoring import drift
from dae.noise.kinds import Gaussian, Poisson, Speckle

NOISE = NoiseConfig(kinds=(Gaussian(weight=1), Poisson(weight=1), Speckle(weight=2)))
RECORDED = {"gaussian": 0.004, "poisson": 0.001, "speckle": 0.01}
POOLED = 0.25 * 0.004 + 0.25 * 0.001 + 0.5 * 0.01


def mixed(*counts: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return errors that are exactly as recorded, of so many images of each kind."""
    drawn = np.repeat(np.arange(len(counts), dtype=np.uint8), counts)
    return np.array(list(RECORDED.values()))[drawn], drawn


@given(st.tuples(*[st.integers(2, 40)] * 3))
def test_the_mix_of_kinds_does_not_matter(counts: tuple[int, int, int]) -> None:
    found = drift.compare_with_recorded(*mixed(*counts), NOISE, RECORDED, 0.95)
    assert found
    assert found.mse == pytest.approx(POOLED)
    assert found.reference == pytest.approx(POOLED)
    assert (found.low, found.high, found.rise) == pytest.approx((0, 0, 0))
    assert found.count == sum(counts)


@pytest.mark.parametrize("few", [0, 1])
def test_a_kind_of_fewer_than_two_images_is_left_out_of_both_sides(few: int) -> None:
    found = drift.compare_with_recorded(*mixed(5, 9, few), NOISE, RECORDED, 0.95)
    assert found
    assert found.mse == pytest.approx((0.004 + 0.001) / 2)
    assert found.rise == pytest.approx(0)
    assert found.count == 14


@pytest.mark.parametrize("recorded", [{"gaussian": 0.004}, {"gaussian": 0.004, "poisson": math.nan}])
def test_a_kind_that_was_not_recorded_is_left_out_of_both_sides(recorded: dict[str, float]) -> None:
    found = drift.compare_with_recorded(*mixed(5, 9, 7), NOISE, recorded, 0.95)
    assert found
    assert (found.mse, found.reference) == pytest.approx((0.004, 0.004))
    assert found.count == 5


def test_where_no_kind_is_left_nothing_is_told() -> None:
    assert drift.compare_with_recorded(*mixed(1, 1, 0), NOISE, RECORDED, 0.95) is None
    assert drift.compare_with_recorded(*mixed(9, 9, 9), NOISE, {}, 0.95) is None


def test_beside_a_perfect_record_any_error_is_an_infinite_rise() -> None:
    errors, drawn = mixed(5, 5, 5)
    perfect = dict.fromkeys(RECORDED, 0.0)
    found = drift.compare_with_recorded(errors, drawn, NOISE, perfect, 0.95)
    assert found
    assert found.rise == found.low == math.inf
    found = drift.compare_with_recorded(0 * errors, drawn, NOISE, perfect, 0.95)
    assert found
    assert (found.low, found.rise, found.high) == (0, 0, 0)


def test_the_interval_covers_the_true_rise_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(150):
        random = np.random.default_rng(seed)
        drawn = random.choice(3, 150, p=[0.25, 0.25, 0.5]).astype(np.uint8)
        errors = 1.1 * mixed(1, 1, 1)[0][drawn] * random.gamma(2, 0.5, 150)
        found = drift.compare_with_recorded(errors, drawn, NOISE, RECORDED, 0.9)
        assert found
        inside += found.low <= 0.1 <= found.high
    assert 0.83 <= inside / 150 <= 0.97


def test_resampling_within_kinds_makes_the_interval_narrower_than_their_mix_would() -> None:
    errors, drawn = mixed(20, 20, 40)
    errors = errors * np.random.default_rng(0).uniform(0.9, 1.1, len(errors))
    found = drift.compare_with_recorded(errors, drawn, NOISE, RECORDED, 0.95)
    assert found
    low, high = bootstrap.weighted_interval([errors], [1.0], POOLED, 0.95)
    assert found.high - found.low < 0.5 * (high - low)
