"""The page that the benchmarks write: what its figures say, and that one part's renewal keeps the others."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import noise, page, scale
from benchmarks.measure import Row, spread
from dae.config.schema import NoiseConfig

TIME = Row("a step", "s", (1.0, 2.0, 4.0), (10.0, 10.0, 10.0), "the loop", more_is_better=False, target=4)
RATE = Row("a batch", "images/s", (300.0,), (100.0,), "the loop")
ALONE = Row("start-up", "s", (3.0,))


def part(name: str) -> types.ModuleType:
    return types.ModuleType(name, f"{name.title()}: what it costs.\n\nHow it is done.\n")


def test_a_ratio_above_one_is_better_whatever_the_unit() -> None:
    assert TIME.ratios == (10.0, 5.0, 2.5)
    assert RATE.ratios == (3.0,)
    assert ALONE.ratios == ()


def test_figures_are_a_median_with_its_spread() -> None:
    assert spread(TIME.ours) == "2 (1 to 4)"
    assert spread(()) == ""


def test_a_row_whose_sides_were_not_repeated_alike_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        assert Row("a", "s", (1.0, 2.0, 3.0), (1.0, 2.0), "b").ratios


def test_a_reference_measured_once_stands_beside_every_repeat() -> None:
    assert Row("a", "s", (1.0, 2.0), (4.0,), "b", more_is_better=False).ratios == (4.0, 2.0)


def test_the_page_holds_every_part_that_was_ever_measured(tmp_path: Path) -> None:
    modules = {name: part(name) for name in ("first", "second", "never")}
    page.record("first", [TIME], tmp_path)
    page.record("second", [RATE], tmp_path)
    page.record("first", [TIME, ALONE], tmp_path)
    page.write(modules, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| a step | s | 2 (1 to 4) | 10 (10 to 10): the loop | 5 (2.5 to 10) | 4 |" in text
    assert "| a batch | images/s | 300 | 100: the loop | 3 |" in text
    assert "| start-up | s | 3 |" in text
    assert text.index("First: what it costs") < text.index("Second: what it costs")
    assert "Never" not in text
    with Image.open(tmp_path / "benchmarks.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_the_loop_that_noise_is_compared_with_draws_the_same_laws() -> None:
    np.random.seed(0)  # noqa: NPY002  (the loop's generator)
    image = np.full((200, 200), 0.5)
    errors = [float(np.mean((noisy(image) - image) ** 2)) for noisy in noise.LOOP]
    kinds = NoiseConfig().kinds
    blocks = np.full((1, 200, 200, 1), 0.5, np.float32)
    ours = [float(np.mean((kind(blocks, np.random.default_rng(0)) - blocks) ** 2)) for kind in kinds]
    assert errors == pytest.approx(ours, rel=0.05)


def test_generated_images_are_of_the_number_asked_for(tmp_path: Path) -> None:
    scale.generate(tmp_path / "blobs.npy", 5300)
    images = np.load(tmp_path / "blobs.npy")
    assert images.shape == (5300, 28, 28)
    assert all(images[row].max() > 100 for row in (0, 4999, 5299))
