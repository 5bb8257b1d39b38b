"""The champion that ``make train`` made, put to image files of every kind of noise, as a person would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from dae.config.schema import DataConfig, NoiseConfig
from dae.data import sources
from dae.noise.kinds import NoiseKind
from dae.schemas import Images

pytestmark = pytest.mark.champion
ROOT = Path(__file__).parents[1]
OF_A_KIND = 20
FORMATS: dict[str, tuple[int, dict[str, Any]]] = {"png": (8, {}), "jpg": (8, {"quality": 95}), "tif": (16, {})}
KINDS = NoiseConfig().kinds
FLAT = {f"flat-{value}.png": value for value in (0, 64, 128, 255)}


def digits() -> Images:
    """The last test images: the examples ``make train`` writes are the first."""
    test = sources.open_source(DataConfig()).test
    assert test is not None
    pixels = np.concatenate(list(test.blocks()))[-OF_A_KIND:]
    return np.asarray(pixels.reshape(OF_A_KIND, 28, 28, 1) / np.float32(255), np.float32)


def write(path: Path, image: Images, bits: int, options: dict[str, Any]) -> None:
    pixels = np.rint(np.clip(image[..., 0], 0, 1) * (2**bits - 1)).astype(f"uint{bits}")
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels)
    else:
        Image.fromarray(pixels).save(path, **options)


def read(path: Path) -> Images:
    pixels = tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))
    return np.asarray(pixels, np.float32)[..., None] / np.float32(np.iinfo(pixels.dtype).max)


def page(images: Images) -> Images:
    """Sixteen images as one of four by four."""
    lines = images[:16].reshape(4, 4, 28, 28, 1)
    return np.concatenate([np.concatenate(list(line), axis=1) for line in lines])


def denoise(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Call the command on the checkout's own store, not on the test's."""
    own = {key: value for key, value in os.environ.items() if key not in ("DAE_HOME", "MLFLOW_TRACKING_URI")}
    command = [sys.executable, "-m", "dae.cli", "denoise", *arguments]
    return subprocess.run(command, cwd=ROOT, env=own, text=True, capture_output=True, timeout=300, check=False)


def most_left(kind: str, suffix: str) -> float:
    """Return the share of its error that a kind of noise may keep.

    Poisson noise is weak, so that half of it is much. JPEG spreads what speckle does to strokes over the ground beside them.
    """
    return {"poisson": 0.7, "speckle": 0.5 if suffix == "jpg" else 0.2}.get(kind, 0.2)


def mse(image: Images, clean: Images) -> float:
    return float(np.mean((image - clean) ** 2))


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_every_kind_have_a_fifth_of_their_error_left(tmp_path: Path, suffix: str) -> None:
    clean = digits()
    before, after = tmp_path / "noisy", tmp_path / "restored"
    before.mkdir()
    wanted: dict[str, tuple[NoiseKind, Images]] = {}
    for kind in KINDS:
        noisy = kind(clean, np.random.default_rng(0))
        for name, image, reference in [(str(i), noisy[i], clean[i]) for i in range(OF_A_KIND)] + [
            ("page", page(noisy), page(clean))
        ]:
            file = f"{kind.kind}-{name}.{suffix}"
            write(before / file, image, *FORMATS[suffix])
            wanted[file] = (kind, reference)

    done = denoise(str(before), "-o", str(after))

    assert done.returncode == 0, done.stderr
    assert f"{len(wanted)} files restored" in done.stdout
    if suffix != "jpg":  # which smooths weak noise further than the champion has seen
        assert done.stderr == ""  # nothing is unlike what the champion was made for
    for single in (True, False):
        noise: dict[str, float] = {}
        left: dict[str, float] = {}
        for kind in KINDS:
            files = [file for file, (one, _) in wanted.items() if one == kind and ("page" in file) != single]
            noise[kind.kind] = float(np.mean([mse(read(before / file), wanted[file][1]) for file in files]))
            left[kind.kind] = float(np.mean([mse(read(after / file), wanted[file][1]) for file in files]))
        assert sum(left.values()) <= sum(noise.values()) / 5
        for name, error in noise.items():
            assert left[name] <= most_left(name, suffix) * error, (name, left, noise)


def test_what_holds_no_noise_stays_as_it_is(tmp_path: Path) -> None:
    before, after = tmp_path / "clean", tmp_path / "restored"
    before.mkdir()
    for index, image in enumerate(digits()):
        write(before / f"{index}.png", image, 8, {})
    for name, value in FLAT.items():
        Image.fromarray(np.full((120, 200), value, np.uint8)).save(before / name)

    done = denoise(str(before), "-o", str(after))

    assert (done.returncode, done.stderr) == (0, "")
    changes = {file.name: mse(read(after / file.name), read(file)) for file in before.iterdir()}
    assert {name for name, change in changes.items() if change} & set(FLAT) == set()
    assert np.mean([change for name, change in changes.items() if name not in FLAT]) < 0.0005
