"""What is measured of images that hold no noise, on models whose faults are known."""

from __future__ import annotations

import numpy as np
import pytest

from dae.config.schema import DataConfig, NoiseConfig
from dae.data import datasets, noisy_datasets
from dae.evaluation import clean_input
from dae.schemas import Images, NoisySet


@pytest.fixture
def noisy() -> NoisySet:
    images = datasets.ingest(DataConfig(limit=300, validation=100, test_limit=20))
    return noisy_datasets.corrupt_sets(images, NoiseConfig()).validation


def through(images: Images) -> Images:
    return np.array(images)


def darker(images: Images) -> Images:
    return images - np.float32(0.1)


def grey_bars(images: Images) -> Images:
    """Turn black into a pattern where there is something else in the image."""
    changed = np.array(images)
    changed[(images == 0) & (images.max(axis=(1, 2, 3), keepdims=True) > 0)] = 0.24
    return changed


def white_overflows(images: Images) -> Images:
    return np.where((images == 1).all(axis=(1, 2, 3), keepdims=True), np.float32(4.07), images)


def bad_borders(images: Images) -> Images:
    changed = np.array(images)
    changed[:, 0] += 0.5
    return changed


def never_done(images: Images) -> Images:
    """Shrink every image a little more each time."""
    return images * np.float32(0.9)


def test_a_model_that_hands_images_through_changes_nothing(noisy: NoisySet) -> None:
    found = clean_input.measure_clean_input(through, noisy)
    assert set(found.model_dump().values()) == {0.0}


def test_every_change_is_measured(noisy: NoisySet) -> None:
    found = clean_input.measure_clean_input(darker, noisy)
    assert found.images == pytest.approx(0.01, rel=1e-4)
    assert found.constants == pytest.approx(0.01, rel=1e-4)
    assert found.bars == pytest.approx(0.01, rel=1e-4)
    assert found.borders == pytest.approx(0.01, rel=1e-4)
    assert found.own_output == pytest.approx(0.01, rel=1e-4)


def test_each_fault_shows_where_it_is(noisy: NoisySet) -> None:
    assert clean_input.measure_clean_input(grey_bars, noisy).bars == pytest.approx(0.24**2, rel=1e-4)
    assert clean_input.measure_clean_input(white_overflows, noisy).constants == pytest.approx(3.07**2, rel=1e-4)
    borders = clean_input.measure_clean_input(bad_borders, noisy)
    assert borders.borders == pytest.approx(0.25 * 28 / (28**2 - 24**2), rel=1e-4)
    assert borders.borders > 3 * borders.images
    assert clean_input.measure_clean_input(never_done, noisy).own_output > 1e-4


def test_a_model_that_gives_no_number_is_told_as_such(noisy: NoisySet) -> None:
    found = clean_input.measure_clean_input(lambda images: images * np.float32(np.nan), noisy)
    assert all(np.isnan(value) for value in found.model_dump().values())


@pytest.mark.parametrize("value", [0.0, 0.75, 1.0])
def test_a_single_image_without_a_number_is_enough(noisy: NoisySet, value: float) -> None:
    def of_one(images: Images) -> Images:
        return np.where((images == value).all(axis=(1, 2, 3), keepdims=True), np.float32(np.nan), images)

    assert np.isnan(clean_input.measure_clean_input(of_one, noisy).constants)
