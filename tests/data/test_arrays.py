from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from dae import storage
from dae.data.arrays import DataError, as_uint8, npy_sha256

FILE = Path("scans.npy")


def test_uint8_is_taken_as_it_is() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(as_uint8(FILE, images), images)


@pytest.mark.parametrize("dtype", [np.uint16, ">u2"])
def test_uint16_is_scaled_to_the_nearest_of_256_levels(dtype: DTypeLike) -> None:
    values = np.array([0, 128, 129, 257, 385, 386, 32768, 65406, 65407, 65535])
    found = as_uint8(FILE, values.astype(dtype).reshape(1, 1, 10, 1))
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == [0, 0, 1, 1, 1, 2, 128, 254, 255, 255]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_are_scaled_to_the_nearest_of_256_levels(dtype: DTypeLike) -> None:
    levels = np.arange(256)
    found = as_uint8(FILE, (levels / 255).astype(dtype).reshape(1, 16, 16))
    np.testing.assert_array_equal(found.ravel(), levels)


def test_images_without_a_channel_axis_get_one() -> None:
    assert as_uint8(FILE, np.zeros((2, 9, 8), np.uint8)).shape == (2, 9, 8, 1)
    assert as_uint8(FILE, np.zeros((2, 9, 8, 3), np.uint8)).shape == (2, 9, 8, 3)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((10,), "a single axis: labels, not images"),
        ((10, 784), r"shape \(N, 784\)"),
        ((10, 8, 8, 2), r"shape \(N, 8, 8, 2\)"),
        ((10, 8, 8, 4), r"shape \(N, 8, 8, 4\)"),
        ((10, 8, 8, 1, 1), r"shape \(N, 8, 8, 1, 1\)"),
        ((10, 0, 8), r"shape \(N, 0, 8\)"),
    ],
)
def test_another_rank_or_number_of_channels_is_refused(shape: tuple[int, ...], found: str) -> None:
    with pytest.raises(DataError, match=rf"scans.npy: must hold images of shape \(N, H, W\) or .*; found {found}"):
        as_uint8(FILE, np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint32, np.bool_, np.complex64, "S1", "M8[s]"])
def test_another_dtype_is_refused(dtype: DTypeLike) -> None:
    images: NDArray[np.generic] = np.zeros((1, 8, 8), dtype)
    with pytest.raises(DataError, match=r"scans.npy: pixels must be uint8, uint16, or floats.*; found dtype"):
        as_uint8(FILE, images)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-3, 1.001, 255.0])
def test_a_float_that_is_no_intensity_is_refused_with_its_place(value: float) -> None:
    images = np.full((3, 8, 9, 1), 0.5)
    images[2, 4, 7, 0] = value
    with pytest.raises(DataError) as refusal:
        as_uint8(FILE, images, first=100)
    assert str(refusal.value) == (
        f"scans.npy: float pixels must be finite and in [0, 1]; found {value} in image 102 at (4, 7, 0)"
    )


@pytest.mark.parametrize("count", [0, 1, storage.CHUNK // 24 + 1])
def test_the_digest_of_an_array_file_covers_every_byte_of_its_elements(tmp_path: Path, count: int) -> None:
    array = np.random.default_rng(count).random((count, 3, 2), dtype=np.float32)
    np.save(tmp_path / "a.npy", array)
    found = npy_sha256(tmp_path / "a.npy")
    assert found == hashlib.sha256(array.tobytes()).hexdigest()
    for place in [(0, 0, 0), (-1, 2, 1)] if count else []:
        changed = array.copy()
        changed[place] += 1
        np.save(tmp_path / "b.npy", changed)
        assert npy_sha256(tmp_path / "b.npy") != found


def test_several_array_files_have_one_digest_in_their_order(tmp_path: Path) -> None:
    one, two = np.arange(6, dtype=np.uint8), np.arange(4, dtype=np.float64)
    np.save(tmp_path / "a.npy", one)
    np.save(tmp_path / "b.npy", two)
    expected = hashlib.sha256(one.tobytes() + two.tobytes()).hexdigest()
    assert npy_sha256(tmp_path / "a.npy", tmp_path / "b.npy") == expected


def test_a_file_that_is_no_array_has_no_digest(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"not an array")
    with pytest.raises(ValueError, match="magic"):
        npy_sha256(tmp_path / "a.npy")
