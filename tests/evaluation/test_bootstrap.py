"""The paired bootstrap: its coverage, its use of pairs, and that luck on a few images decides nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dae.evaluation import bootstrap

ERRORS = st.lists(st.floats(1e-6, 0.1), min_size=4, max_size=30)


def errors(count: int, seed: int, mean: float = 0.005) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, mean / 2, count)


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(200):
        champion = errors(300, seed)
        challenger = champion * 1.05 * np.random.default_rng(1000 + seed).gamma(50, 1 / 50, 300)
        found = bootstrap.compare_paired(challenger, champion, 0.9)
        inside += found.low <= 0.05 <= found.high
    assert 0.84 <= inside / 200 <= 0.96


def test_pairs_make_a_small_steady_difference_plain() -> None:
    champion = errors(500, 0)
    steady = bootstrap.compare_paired(champion * 1.01, champion, 0.95)
    assert steady.low == pytest.approx(0.01)
    assert steady.high == pytest.approx(0.01)
    unpaired = bootstrap.compare_paired(np.random.default_rng(1).permutation(champion) * 1.01, champion, 0.95)
    assert unpaired.low < -0.03
    assert unpaired.high > 0.05


def test_one_lucky_image_does_not_show_a_challenger_to_be_better() -> None:
    champion = errors(200, 3)
    champion[7] = 1.0  # the champion fails on one image, and is a tenth better on all the others
    challenger = np.where(np.arange(200) == 7, 0.0, champion * 1.1)
    found = bootstrap.compare_paired(challenger, champion, 0.95)
    assert found.challenger < found.champion
    assert found.low < 0 < found.high


def test_identical_models_do_not_differ() -> None:
    found = bootstrap.compare_paired(errors(50, 0), errors(50, 0), 0.95)
    assert (found.low, found.high) == (0.0, 0.0)


def test_beside_a_perfect_champion_only_perfection_is_no_worse() -> None:
    perfect = np.zeros(10)
    assert bootstrap.compare_paired(perfect, perfect, 0.95).high == 0
    assert not math.isfinite(bootstrap.compare_paired(errors(10, 0), perfect, 0.95).high)


@pytest.mark.parametrize("count", [0, 1])
def test_from_fewer_than_two_images_nothing_can_be_told(count: int) -> None:
    found = bootstrap.compare_paired(errors(count, 0), errors(count, 1), 0.95)
    assert (found.low, found.high, found.count) == (-math.inf, math.inf, count)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_error_that_is_not_finite_leaves_the_interval_infinite(value: float) -> None:
    spoilt = errors(20, 0)
    spoilt[3] = value
    for pair in ((spoilt, errors(20, 1)), (errors(20, 1), spoilt)):
        assert bootstrap.compare_paired(*pair, 0.95).high == math.inf


@given(ERRORS, st.data())
def test_a_lower_error_of_any_image_raises_no_end_of_the_interval(champion: list[float], data: st.DataObject) -> None:
    size = len(champion)
    challenger = np.array(data.draw(st.lists(st.floats(0, 0.1), min_size=size, max_size=size)))
    better = challenger.copy()
    better[data.draw(st.integers(0, size - 1))] *= data.draw(st.floats(0, 1))
    before, after = (bootstrap.compare_paired(each, np.array(champion), 0.95) for each in (challenger, better))
    assert after.low <= before.low + 1e-12
    assert after.high <= before.high + 1e-12


def test_kinds_are_compared_on_their_own_images() -> None:
    drawn = np.array([0, 1] * 50, np.uint8)
    champion = errors(100, 0)
    challenger = champion * np.where(drawn == 0, 0.5, 2.0)
    found = bootstrap.compare_errors(challenger, champion, drawn, ("gaussian", "speckle", "poisson"), 0.95)
    assert found.per_kind["gaussian"].high == pytest.approx(-0.5)
    assert found.per_kind["speckle"].low == pytest.approx(1.0)
    assert found.pooled.count == 100
    assert found.per_kind["gaussian"].count == 50
    assert found.per_kind["poisson"].count == 0
    assert not math.isfinite(found.per_kind["poisson"].high)
