from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dae import random_streams

NAMES = st.lists(st.text("abcxyz", max_size=4) | st.integers(0, 99), max_size=3)


def bits(seed: int, *names: str | int) -> list[int]:
    return [int(word) for word in random_streams.make_stream(seed, *names).bit_generator.random_raw(4)]


@given(st.integers(0, 2**32 - 1), NAMES)
def test_the_same_seed_and_names_give_the_same_stream(seed: int, names: list[str | int]) -> None:
    assert bits(seed, *names) == bits(seed, *names)


@given(st.integers(0, 2**32 - 1), NAMES, NAMES)
def test_other_names_give_another_stream(seed: int, one: list[str | int], other: list[str | int]) -> None:
    assert (bits(seed, *one) == bits(seed, *other)) == (one == other)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_another_seed_gives_another_stream(one: int, other: int) -> None:
    assert (bits(one, "noise") == bits(other, "noise")) == (one == other)


def test_a_number_and_its_text_name_different_streams() -> None:
    assert bits(0, 1) != bits(0, "1")


def test_a_stream_does_not_depend_on_what_others_have_drawn() -> None:
    first, second = random_streams.make_stream(3, "a"), random_streams.make_stream(3, "b")
    first.random(1000)
    assert second.random() == random_streams.make_stream(3, "b").random()


def test_neighbouring_blocks_are_uncorrelated() -> None:
    draws = np.stack(
        [random_streams.make_stream(0, "noise", "validation", block).standard_normal(20_000) for block in range(4)]
    )
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.03


def test_a_stream_stays_what_it_is_from_release_to_release() -> None:
    assert bits(7, "noise", "validation", 3)[:2] == [0x18FCEEE44C7886A3, 0x16D3E454E932032E]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed must be at least 0, received -1"):
        random_streams.make_stream(-1, "noise")
