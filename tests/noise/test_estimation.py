"""The estimate of the noise, and what is said of images that a model was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dae.config.schema import DataConfig, NoiseConfig
from dae.data import datasets, noisy_datasets
from dae.data.photographs import find_photographs
from dae.inference import input_checks
from dae.noise import estimation
from dae.noise.kinds import Gaussian, Noise, to_8bit
from dae.schemas import DomainWarning, Images, NoisySet, TrainingDomain
from dae.training import domain

PHOTOGRAPHS = find_photographs((("chelsea.png", "coffee.png", "rocket.jpg"),))


def photograph(index: int) -> Images:
    from dae.data.folders import read_image

    return np.asarray(read_image(PHOTOGRAPHS[index]), np.float32) / np.float32(255)


def noisy(image: Images, variance: float) -> Images:
    return np.asarray(Gaussian(variance=variance)(image[None], np.random.default_rng(0))[0], np.float32)


def concerns(image: Images, trained: TrainingDomain) -> list[DomainWarning]:
    sample = [np.asarray(part, np.float32) for part in estimation.iterate_patches(image, trained.image_shape[:2])]
    return input_checks.find_domain_warnings(sample, image.shape, float(image.max()), trained)


def said(image: Images, trained: TrainingDomain) -> list[str]:
    """What is said of noise and intensities."""
    return [
        str(concern) for concern in concerns(image, trained) if concern.about in ("noise", "clipping", "intensities")
    ]


def validation(noise: NoiseConfig, limit: int = 400) -> NoisySet:
    images = datasets.ingest(DataConfig(limit=limit, validation=200, test_limit=20))
    return noisy_datasets.corrupt_sets(images, noise).validation


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingDomain:
    """MNIST under the default noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(tmp_path_factory.mktemp("home")))
        return domain.measure_training_domain(validation(NoiseConfig(file_share=0)))


@pytest.mark.parametrize("variance", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("index", range(3))
def test_the_estimate_on_patches_of_a_photograph_is_that_of_the_whole(index: int, variance: float) -> None:
    image = noisy(photograph(index), variance)
    parts = [np.asarray(part, np.float32) for part in estimation.iterate_patches(image, (28, 28))]
    assert estimation.estimate_level(parts) == pytest.approx(variance**0.5, rel=0.2)
    assert estimation.estimate_sigma(image[None])[0] == pytest.approx(variance**0.5, rel=0.2)


@pytest.mark.parametrize("variance", [0.02, 0.1, 0.4])
def test_the_estimate_on_mnist_and_on_photographs_agrees(variance: float) -> None:
    stored = validation(NoiseConfig(kinds=(Gaussian(variance=variance),), file_share=0))
    found = domain.measure_training_domain(stored)
    assert found.noise_sigma[0] < variance**0.5 < found.noise_sigma[1]
    for index in range(3):
        assert said(noisy(photograph(index), variance), found) == []


def test_it_is_the_frozen_images_that_are_measured(trained: TrainingDomain) -> None:
    assert trained.image_shape == (28, 28, 1)
    assert trained.intensity == (0, 1)
    low, high = trained.noise_sigma
    assert 0.02 < low < 0.1
    assert 0.3 < high < 0.7


@pytest.mark.parametrize("kind", NoiseConfig().kinds, ids=lambda kind: kind.kind)
def test_nothing_is_said_of_images_as_they_were_trained_on(trained: TrainingDomain, kind: Noise) -> None:
    stored = validation(NoiseConfig(kinds=(kind,), seed=1, file_share=0))
    images, _, _ = noisy_datasets.read_block(stored, slice(None))
    clipped = np.round(np.clip(images, 0, 1) * 255) / np.float32(255)
    assert trained.unclipped
    assert sum(bool(said(image, trained)) for image in images) <= 0.03 * len(images)
    told = [said(image, trained) for image in clipped]
    if kind.kind == "gaussian":  # what was below 0 is gone, and the model has never seen that
        assert sum("its noise seems to be cut off" in " ".join(each) for each in told) >= 0.9 * len(told)
    else:
        assert sum(map(bool, told)) <= 0.03 * len(told)
    as_trained = trained.model_copy(update={"unclipped": False})
    assert sum(bool(said(image, as_trained)) for image in clipped) <= 0.03 * len(clipped)
    assert input_checks.find_domain_warnings(list(images[:64]), (28, 28, 1), float(images.max()), trained) == []


def test_too_much_and_too_little_noise_is_told(trained: TrainingDomain) -> None:
    image = photograph(0)
    (little,) = said(image, trained)
    assert "its noise has a standard deviation of about 0.0" in little
    assert f"the model was trained on {trained.noise_sigma[0]:.3f} to {trained.noise_sigma[1]:.3f}" in little
    (much,) = said(noisy(image, 1.0), trained)
    assert "of about 0.9" in much or "of about 1.0" in much


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize(
    ("factor", "offset", "found"),
    [
        (255, 0, "its intensities are mostly from"),  # floats of 0..255
        (2, -1, "its intensities are mostly from"),
        (4095 / 65535, 0, "its intensities end at 0.0"),  # 12 bits of 16
        (16383 / 65535, 0, "its intensities end at 0.2"),  # 14 bits of 16
        (255 / 65535, 0, "its intensities end at 0.003"),
    ],
)
def test_intensities_in_other_units_are_told(
    trained: TrainingDomain, index: int, factor: float, offset: float, found: str
) -> None:
    for variance in (0.0001, 0.02):
        image = np.clip(noisy(photograph(index), variance), 0, 1)
        (concern,) = said((factor * image + offset).astype(np.float32), trained)
        assert found in concern
        assert "the model was trained on 0 to 1" in concern


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("factor", [0.4, 0.7, 1.0])
def test_dark_photographs_are_no_reason_to_say_anything_of_their_range(
    trained: TrainingDomain, index: int, factor: float
) -> None:
    assert said(noisy(factor * photograph(index), 0.02), trained) == []


def test_an_image_of_one_value_has_no_noise_and_no_range() -> None:
    flat = np.zeros((1, 32, 32, 1), np.float32)
    assert estimation.estimate_sigma(flat).tolist() == [0.0]
    quiet = TrainingDomain(image_shape=(28, 28, 1), noise_sigma=(0.0, 0.1), intensity=(0.0, 1.0))
    assert said(flat[0], quiet) == []


@pytest.mark.parametrize("shape", [(1, 1, 1), (15, 40, 1), (40, 15, 3)])
def test_nothing_is_said_of_images_too_small_to_show_their_noise(shape: tuple[int, int, int]) -> None:
    usual = TrainingDomain(image_shape=(28, 28, 1), noise_sigma=(0.05, 0.3), intensity=(0.0, 1.0))
    assert said(np.full(shape, 0.5, np.float32), usual) == []
    tiny = TrainingDomain(image_shape=(8, 8, 1), noise_sigma=(0.05, 0.3), intensity=(0.0, 1.0))
    assert len(said(noisy(np.full((40, 40, 1), 0.5, np.float32), 0.0004), tiny)) == 1


def test_patches_are_spread_over_the_whole_image_and_no_larger_than_it() -> None:
    image = np.arange(300 * 5).reshape(300, 5, 1)
    found = list(estimation.iterate_patches(image, (28, 28)))
    assert {part.shape for part in found} == {(28, 5, 1)}
    assert found[0][0, 0, 0] == 0
    assert found[-1][-1, -1, 0] == image[-1, -1, 0]


def framed(image: Images, value: float) -> Images:
    """A picture in the middle of a page nine times its size."""
    height, width, channels = image.shape
    page = np.full((3 * height, 3 * width, channels), value, np.float32)
    page[height : 2 * height, width : 2 * width] = image
    return page


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 0.95, 1.0])
def test_one_noisy_digit_on_blank_paper_is_as_noisy_as_without(value: float) -> None:
    images, _, _ = noisy_datasets.read_block(validation(NoiseConfig(kinds=(Gaussian(),), file_share=1)), slice(0, 20))
    for image in images:
        page = np.full((560, 560, 1), value, np.float32)
        page[270:298, 130:158] = image
        parts = [np.asarray(part, np.float32) for part in estimation.iterate_patches(page, (28, 28))]
        assert estimation.estimate_level(parts) == pytest.approx(estimation.estimate_level([image]), rel=0.5)


def test_noise_too_strong_for_the_model_is_noticed_in_a_file_which_cuts_it_off() -> None:
    usual = domain.measure_training_domain(validation(NoiseConfig()))
    clean = noisy_datasets.read_block(validation(NoiseConfig()), slice(None))[1][:100]
    for variance, share in {0.1: 0.0, 0.5: 0.7, 1.0: 0.98}.items():
        files = to_8bit(Gaussian(variance=variance)(clean, np.random.default_rng(0)))
        told = [about(image, usual).get("noise", False) for image in files]
        assert np.mean(told) >= share
        assert share or not any(told)
    sheet = clean.reshape(5, 20, 28, 28, 1).transpose(0, 2, 1, 3, 4).reshape(1, 140, 560, 1)
    pages = to_8bit(Gaussian(variance=0.5)(np.ascontiguousarray(sheet), np.random.default_rng(0)))
    assert about(pages[0], usual)["noise"]


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("index", range(3))
def test_blank_paper_and_bars_do_not_count(index: int, value: float, tmp_path: Path) -> None:
    image = np.clip(noisy(photograph(index), 0.01), 0, 1)
    size = (28, 28)
    whole, page = (
        [np.asarray(part, np.float32) for part in estimation.iterate_patches(each, size)]
        for each in (image, framed(image, value))
    )
    assert estimation.estimate_level(page) == pytest.approx(estimation.estimate_level(whole), rel=0.15)
    pixels = np.rint(framed(image, value) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "page.jpg", quality=90)  # its bars are no longer of one value
    stored = np.asarray(Image.open(tmp_path / "page.jpg"), np.float32) / 255
    parts = [np.asarray(part, np.float32) for part in estimation.iterate_patches(stored, size)]
    assert estimation.estimate_level(parts) == pytest.approx(estimation.estimate_level(whole), rel=0.35)


def about(image: Images, trained: TrainingDomain) -> dict[str, bool]:
    return {concern.about: concern.harmful for concern in concerns(image, trained)}


def test_other_channels_would_do_harm_unless_they_are_equal(trained: TrainingDomain) -> None:
    grey = noisy(photograph(0), 0.02)[..., :1]
    colour = TrainingDomain(image_shape=(28, 28, 3), noise_sigma=(0.05, 0.3), intensity=(0.0, 1.0))
    assert about(noisy(photograph(0), 0.02), trained)["channels"]
    three = np.repeat(grey, 3, axis=2)
    sample = [np.asarray(part, np.float32) for part in estimation.iterate_patches(three, (28, 28))]
    said_of_grey = input_checks.find_domain_warnings(sample, three.shape, 1.0, trained, grey=True)
    assert "channels" not in {concern.about for concern in said_of_grey}
    assert about(grey, colour)["channels"]


def test_noise_far_outside_would_do_harm_and_noise_just_outside_is_told() -> None:
    usual = TrainingDomain(image_shape=(28, 28, 3), noise_sigma=(0.08, 0.12), intensity=(0.0, 1.0))
    found = {sigma: about(noisy(0.5 + 0 * photograph(0), sigma**2), usual) for sigma in (0.01, 0.05, 0.1, 0.16, 0.3)}
    assert found == {
        0.01: {"noise": True},
        0.05: {"noise": False},
        0.1: {},
        0.16: {"noise": False},
        0.3: {"noise": True},
    }


def test_size_is_told_of_models_of_whole_images_alone(trained: TrainingDomain) -> None:
    image = noisy(photograph(0)[..., :1], 0.02)
    told = {windows: about(image, trained.model_copy(update={"windows": windows})) for windows in (True, False, None)}
    assert ["size" in each for each in told.values()] == [False, True, False]
    assert not told[False]["size"]


def test_bright_paper_is_told_to_a_model_of_bright_ink() -> None:
    trained = domain.measure_training_domain(validation(NoiseConfig()))
    stored = validation(NoiseConfig(seed=2))
    images, _, _ = noisy_datasets.read_block(stored, slice(None))
    clipped = np.clip(images, 0, 1)
    assert sum("brightness" in about(image, trained) for image in clipped) <= 0.03 * len(clipped)
    inverted = [concerns(np.asarray(1 - image, np.float32), trained) for image in clipped]
    told = [any(c.about == "brightness" and "invert it" in c.advice for c in each) for each in inverted]
    assert np.mean(told) >= 0.97
