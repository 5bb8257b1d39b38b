from __future__ import annotations

import numpy as np
import pytest

from dae.data import documents, photographs
from dae.evaluation import metrics
from dae.evaluation.classical import BM3D, Median, Method, NoisyInput, NonLocalMeans, TotalVariation, Wavelet
from dae.noise.kinds import Gaussian, NoiseKind, SaltAndPepper
from dae.schemas import Images

GAUSSIAN = Gaussian(variance=0.02)
CASES: list[tuple[Method, NoiseKind]] = [
    (Median(), SaltAndPepper(amount=0.1)),
    (Median(plus=True), SaltAndPepper(amount=0.1)),
    (TotalVariation(weight=0.1), GAUSSIAN),
    (NonLocalMeans(h=0.12), GAUSSIAN),
    (Wavelet(sigma=0.14), GAUSSIAN),
]


@pytest.fixture(scope="module")
def clean() -> dict[int, Images]:
    """Two patches of a page and two of a photograph, by their number of channels."""
    grey = next(documents.iterate_blocks("test", 64))[20:22]
    colour = next(photographs.iterate_blocks("test", 64))[10:12]
    return {each.shape[3]: each.astype(np.float32) / np.float32(255) for each in (grey, colour)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("method", "kind"), CASES, ids=lambda each: getattr(each, "method", ""))
def test_a_method_lowers_the_error_of_the_noise_it_is_for(
    clean: dict[int, Images], channels: int, method: Method, kind: NoiseKind
) -> None:
    noisy = kind(clean[channels], np.random.default_rng(0))
    restored = method(noisy)
    assert restored.shape == noisy.shape
    assert restored.dtype == np.float32
    assert 0 <= restored.min() <= restored.max() <= 1
    better = metrics.mse(restored, clean[channels]) < 0.8 * metrics.mse(NoisyInput()(noisy), clean[channels])
    assert better.all()


@pytest.mark.parametrize("channels", [1, 3])
def test_bm3d_lowers_the_error_of_gaussian_noise(clean: dict[int, Images], channels: int) -> None:
    pytest.importorskip("bm3d")
    image = clean[channels][:1, :24, :24]
    noisy = GAUSSIAN(image, np.random.default_rng(0))
    assert metrics.mse(BM3D(sigma=0.14)(noisy), image) < 0.7 * metrics.mse(NoisyInput()(noisy), image)


def test_nothing_is_the_noisy_image_clipped() -> None:
    noisy = np.array([-1, 0.25, 2], np.float32).reshape(1, 1, 3, 1)
    assert NoisyInput()(noisy).ravel().tolist() == [0, 0.25, 1]


def test_clip_says_what_a_method_is_given(clean: dict[int, Images]) -> None:
    noisy = Gaussian(variance=0.3)(clean[1], np.random.default_rng(0))
    clipped = TotalVariation(weight=0.3, clip=True)(noisy)
    np.testing.assert_array_equal(clipped, TotalVariation(weight=0.3)(np.clip(noisy, 0, 1)))
    assert np.abs(clipped - TotalVariation(weight=0.3)(noisy)).max() > 0.01


def test_each_image_is_restored_by_itself(clean: dict[int, Images]) -> None:
    noisy = GAUSSIAN(clean[1], np.random.default_rng(0))
    for method, _ in CASES:
        np.testing.assert_array_equal(method(noisy)[1:], method(noisy[1:]))


def test_an_empty_batch_stays_empty() -> None:
    assert Median()(np.empty((0, 8, 8, 1), np.float32)).shape == (0, 8, 8, 1)
