"""One opening of a file serves to describe, to check and to restore it."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tifffile
from PIL import Image

from dae.inference.denoiser import ImageDenoiser
from dae.inference.files import FileJob, denoise_file
from dae.schemas import TrainingDomain

NOISY = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)


def half() -> ImageDenoiser:
    noisy = keras.Input((None, None, 1))
    trained_on = TrainingDomain(image_shape=(28, 28, 1), noise_sigma=(0.05, 0.3), intensity=(0.0, 1.0))
    return ImageDenoiser(keras.Model(noisy, keras.layers.Rescaling(0.5)(noisy)), "half", trained_on)


def write_pages(path: Path, **options: Any) -> None:
    with tifffile.TiffWriter(path) as writer:
        for _ in range(3):
            writer.write(NOISY, photometric="minisblack", **options)


def write_image(path: Path) -> None:
    match path.suffix:
        case ".tif":
            write_pages(path)
        case ".tiff":
            write_pages(path, compression="zlib", tile=(16, 16), metadata=None)
        case ".npy":
            np.save(path, np.stack([NOISY] * 3))
        case _:
            Image.fromarray(NOISY).save(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".tiff", ".npy"])
def test_a_file_is_opened_once_to_be_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    job = FileJob(input=tmp_path / f"a{suffix}", output=tmp_path / "out" / f"a{suffix}")
    write_image(job.input)
    denoiser = half()
    opened: list[Path] = []
    python_open = builtins.open

    def counted(file: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(file, int) and Path(file).name == job.input.name:
            opened.append(Path(file))
        return python_open(file, *args, **kwargs)

    with monkeypatch.context() as patch:
        for module in (builtins, io):
            patch.setattr(module, "open", counted)
        result = denoise_file(denoiser, job, anyway=True)
    assert result.error is None
    assert opened.count(job.input) == 1
    assert job.output.is_file()
