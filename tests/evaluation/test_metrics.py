from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from skimage import metrics as skimage_metrics

from dae.evaluation import metrics
from dae.schemas import Images, Quality

reference: Any = skimage_metrics  # untyped
CHANNELS = pytest.mark.parametrize("channels", [1, 3])


def pair(channels: int, count: int = 6, height: int = 13, width: int = 10) -> tuple[Images, Images]:
    rng = np.random.default_rng(channels)
    clean = rng.random((count, height, width, channels), dtype=np.float32)
    strength = np.linspace(0.01, 0.6, count, dtype=np.float32)[:, None, None, None]
    return clean + strength * rng.standard_normal(clean.shape, dtype=np.float32), clean


@CHANNELS
def test_mse_is_scikit_images(channels: int) -> None:
    restored, clean = pair(channels)
    expected = [reference.mean_squared_error(*images) for images in zip(restored, clean, strict=True)]
    np.testing.assert_allclose(metrics.mse(restored, clean), expected, rtol=1e-6)


@CHANNELS
def test_psnr_is_scikit_images_at_a_data_range_of_1(channels: int) -> None:
    restored, clean = pair(channels)
    pairs = zip(clean, restored, strict=True)
    expected = [reference.peak_signal_noise_ratio(*images, data_range=1) for images in pairs]
    np.testing.assert_allclose(metrics.psnr(restored, clean), expected, rtol=1e-6)


@CHANNELS
def test_ssim_is_scikit_images_at_a_data_range_of_1(channels: int) -> None:
    restored, clean = pair(channels)
    expected = [
        np.mean([reference.structural_similarity(a[..., c], b[..., c], data_range=1) for c in range(channels)])
        for a, b in zip(restored, clean, strict=True)
    ]
    np.testing.assert_allclose(metrics.ssim(restored, clean), expected, rtol=1e-5)


def test_a_perfect_image_has_no_error_100_decibels_and_similarity_1() -> None:
    _, clean = pair(1)
    errors = metrics.mse(clean, clean)
    assert errors.tolist() == [0] * 6
    assert metrics.psnr_of_mse(errors).tolist() == [100] * 6
    np.testing.assert_allclose(metrics.ssim(clean, clean), 1)


def test_values_are_per_image_in_float64() -> None:
    restored, clean = pair(3)
    for values in (metrics.mse(restored, clean), metrics.ssim(restored, clean)):
        assert values.dtype == np.float64
        assert values.shape == (6,)
    alone = np.concatenate([metrics.mse(restored[i : i + 1], clean[i : i + 1]) for i in range(6)])
    np.testing.assert_array_equal(metrics.mse(restored, clean), alone)


def test_the_error_is_summed_in_float64() -> None:
    clean = np.zeros((1, 2000, 2000, 1), np.float32)
    restored = np.full_like(clean, 1e-3)
    assert metrics.mse(restored, clean)[0] == pytest.approx(float(np.float32(1e-3)) ** 2, rel=1e-12)


def test_the_images_are_left_alone() -> None:
    restored, clean = pair(1)
    before = restored.copy(), clean.copy()
    metrics.mse(restored, clean)
    metrics.ssim(restored, clean)
    np.testing.assert_array_equal((restored, clean), before)


def quality_of(errors: metrics.Values, similarities: metrics.Values) -> Quality:
    return metrics.mean_quality({"mse": errors, "psnr": metrics.psnr_of_mse(errors), "ssim": similarities})


def test_the_quality_of_a_group_is_the_mean_over_its_images() -> None:
    quality = quality_of(np.array([0.1, 0.001]), np.array([0.5, 0.9]))
    assert quality.count == 2
    assert quality.mse == pytest.approx(0.0505)
    assert quality.ssim == pytest.approx(0.7)
    assert quality.psnr == pytest.approx((10 + 30) / 2)  # of each image, not of the mean error


def test_an_empty_group_has_no_quality() -> None:
    quality = quality_of(np.array([]), np.array([]))
    assert quality.count == 0
    assert all(math.isnan(value) for value in (quality.mse, quality.psnr, quality.ssim))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_image_is_never_averaged_away(value: float) -> None:
    restored, clean = pair(1)
    restored[2, 3, 3, 0] = value
    errors = metrics.mse(restored, clean)
    assert not math.isfinite(errors[2])
    quality = quality_of(errors, np.ones(6))
    assert not math.isfinite(quality.mse)
    assert not math.isfinite(quality.psnr)
