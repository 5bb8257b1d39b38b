"""A format that is added at run time is in the plan of files, is described and restored, and is read for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
from PIL import Image

from dae.data import formats
from dae.data.arrays import DataError, Pixels
from dae.data.folders import find_image_files, iterate_blocks
from dae.data.formats.base import ImageFormat, ImageInfo, OpenedImage, Restore
from dae.inference.denoiser import ImageDenoiser
from dae.inference.files import FileJob, denoise_file, plan_files


class OpenedBitmap(OpenedImage):
    def rewrite(self, target: Path, restore: Restore) -> None:
        with Image.open(self.path) as image:
            Image.fromarray(restore(np.array(image)[None, ..., None])[0, ..., 0]).save(target, "BMP")


class BitmapFormat(ImageFormat):
    name = "BMP"
    suffixes = (".bmp", ".dib")
    for_training = True

    @contextmanager
    def open(self, path: Path) -> Iterator[OpenedImage]:
        with Image.open(path, formats=("BMP",)) as image:
            yield OpenedBitmap(path, ImageInfo(1, (image.height, image.width, 1), "uint8"))

    def decode(self, path: Path) -> Pixels:
        with Image.open(path, formats=("BMP",)) as image:
            return np.asarray(image)


@pytest.fixture
def registered() -> Iterator[None]:
    with mock.patch.dict(formats.FORMATS):
        formats.register_format(BitmapFormat())
        yield


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)


@pytest.fixture
def folder(tmp_path: Path, pixels: Pixels) -> Path:
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.bmp")
    return tmp_path / "in"


@pytest.mark.usefixtures("registered")
def test_a_registered_format_is_described_planned_and_restored(folder: Path, pixels: Pixels) -> None:
    assert str(formats.describe(folder / "a.bmp")) == "30x20, grey, uint8"
    output = folder.parent / "out" / "a.bmp"
    assert plan_files([str(folder)], output.parent) == (FileJob(input=folder / "a.bmp", output=output),)
    (job,) = plan_files([str(folder / "a.bmp")], output.with_suffix(".dib"))
    noisy = keras.Input((None, None, 1))
    half = ImageDenoiser(keras.Model(noisy, keras.layers.Rescaling(0.5)(noisy)), "half")
    assert denoise_file(half, job).error is None
    np.testing.assert_array_equal(np.asarray(Image.open(job.output)), half(pixels))


@pytest.mark.usefixtures("registered")
def test_a_registered_format_is_read_from_a_training_folder(folder: Path, pixels: Pixels) -> None:
    (block,) = iterate_blocks(find_image_files(folder), None)
    np.testing.assert_array_equal(block[0, ..., 0], pixels)


def test_without_registration_the_format_is_unknown(folder: Path) -> None:
    with pytest.raises(DataError, match=r"must be one of .*; found \.bmp"):
        formats.describe(folder / "a.bmp")
    with pytest.raises(DataError, match="must hold PNG, JPEG or TIFF images; found none"):
        find_image_files(folder)


@pytest.mark.usefixtures("registered")
def test_messages_name_a_registered_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold PNG, JPEG, TIFF or BMP images; found none"):
        find_image_files(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (".PNM", "must begin with a dot and be in lower case, received '.PNM'"),
        ("pnm", "must begin with a dot and be in lower case, received 'pnm'"),
        (".png", "must belong to one format, .png is already PNG"),
    ],
)
def test_bad_and_taken_suffixes_are_refused(suffix: str, message: str) -> None:
    class Other(BitmapFormat):
        suffixes = (".new", suffix)

    with pytest.raises(ValueError, match=message):
        formats.register_format(Other())
    assert ".new" not in formats.FORMATS


def test_arrays_are_not_read_from_training_folders(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 9), np.uint8))
    with pytest.raises(DataError, match=r"must have a format that training images can have; found NumPy array"):
        formats.FORMATS[".npy"].read(tmp_path / "a.npy")
    with pytest.raises(DataError, match="found none"):
        find_image_files(tmp_path)
