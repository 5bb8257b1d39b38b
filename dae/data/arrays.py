"""Image arrays: which shapes and types are taken, and how foreign ones become uint8 images or are refused."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dae.storage import CHUNK

MAX_BLOCK = 1024
BLOCK_PIXELS = 2**20

Block = NDArray[np.uint8]
Pixels = NDArray[Any]
TYPES = {("u", 1), ("u", 2), ("f", 2), ("f", 4), ("f", 8)}
CHANNELS = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGB and alpha"}


def images_per_block(shape: tuple[int, ...]) -> int:
    """Return how many images of a shape are read, and share one random stream, at a time: about a million values.

    It depends on nothing but the shape, so that neither batch size nor number of workers bears on the noise.

    Examples
    --------
    >>> images_per_block((28, 28, 1)), images_per_block((512, 512, 3))
    (1024, 1)
    """
    return max(1, min(MAX_BLOCK, BLOCK_PIXELS // math.prod(shape)))


def npy_sha256(*paths: Path | str) -> str:
    """Return the SHA-256 over every byte of the elements in ``.npy`` files, one after the other, read in chunks.

    Nothing is mapped: pages of a mapped file count as memory of the process.

    Raises
    ------
    ValueError
        If a file is no ``.npy`` file.
    """
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


class DataError(ValueError):
    """Input data broke a rule; the message names the file, the rule and what was found.

    Parameters
    ----------
    path : Path
        The file, or the place inside it.
    rule : str
        What it must satisfy.
    found : str
        What was there instead.
    """

    def __init__(self, path: Path | str, rule: str, found: str) -> None:
        super().__init__(f"{path}: {rule}; found {found}")


def as_uint8(path: Path, images: NDArray[np.generic], first: int = 0) -> Block:
    """Return images as uint8 of shape ``(n, H, W, C)``.

    Parameters
    ----------
    path : Path
        Named in errors.
    images : ndarray, shape (n, H, W) or (n, H, W, C) with C 1 or 3
        uint8 as it is, uint16 scaled by 1/257, floats in [0, 1] scaled by 255; rounded to the nearest.
    first : int
        Number of the first image, for errors.

    Raises
    ------
    DataError
        On another rank or dtype, an empty image, a NaN, or a float outside [0, 1].

    Examples
    --------
    >>> as_uint8(Path("a.npy"), np.array([[[0.0, 1.0]]], np.float32)).ravel().tolist()
    [0, 255]
    """
    if images.ndim == 1:
        raise DataError(
            path, "must hold images of shape (N, H, W) or (N, H, W, C)", "a single axis: labels, not images"
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)) or 0 in images.shape[1:]:
        raise DataError(
            path, "must hold images of shape (N, H, W) or (N, H, W, C), C 1 or 3", f"shape (N, {_dims(images)})"
        )
    images = images if images.ndim == 4 else images[..., None]
    if images.dtype == np.uint8:
        return np.asarray(images, np.uint8)
    if images.dtype.kind == "u" and images.dtype.itemsize == 2:
        return np.rint(images.astype(np.float32) / 257).astype(np.uint8)
    if images.dtype.kind != "f":
        raise DataError(path, "pixels must be uint8, uint16, or floats in [0, 1]", f"dtype {images.dtype}")
    _require_unit_range(path, images.astype(np.float64), first)
    return np.rint(images.astype(np.float32) * 255).astype(np.uint8)


def _dims(images: NDArray[np.generic]) -> str:
    return ", ".join(map(str, images.shape[1:]))


def _require_unit_range(path: Path, images: NDArray[np.float64], first: int) -> None:
    bad = ~((images >= 0) & (images <= 1))  # true for NaN as well
    if bad.any():
        image, *pixel = np.argwhere(bad)[0].tolist()
        value = images[image][tuple(pixel)]
        raise DataError(
            path, "float pixels must be finite and in [0, 1]", f"{value} in image {first + image} at {tuple(pixel)}"
        )


class ImageError(ValueError):
    """Pixels broke a rule.

    Parameters
    ----------
    rule : str
        What they must satisfy.
    found : str
        What was there instead.
    """

    def __init__(self, rule: str, found: str) -> None:
        super().__init__(f"{rule}; found {found}")
        self.rule, self.found = rule, found


def as_stack(images: Pixels) -> Pixels:
    """Return an array as images ``(N, H, W, C)``: a view of it.

    Parameters
    ----------
    images : ndarray, shape (H, W), (H, W, C), (N, H, W) or (N, H, W, C)
        C is 1 to 4; 2 and 4 have alpha last. Of three axes the last is channels if it has at most 4 elements, else the first is
        the number of images.

    Raises
    ------
    ImageError
        On another shape, or a type other than uint8, uint16 and floats of 16, 32 and 64 bits.

    Examples
    --------
    >>> as_stack(np.zeros((20, 30, 3), np.uint8)).shape, as_stack(np.zeros((20, 30, 40), np.uint8)).shape
    ((1, 20, 30, 3), (20, 30, 40, 1))
    """
    if (images.dtype.kind, images.dtype.itemsize) not in TYPES:
        raise ImageError("pixels must be uint8, uint16, or floats of 16, 32 or 64 bits", str(images.dtype))
    stack = images
    if images.ndim == 2:
        stack = images[None, ..., None]
    elif images.ndim == 3:
        stack = images[None] if images.shape[2] <= 4 else images[..., None]
    if stack.ndim != 4 or stack.shape[3] not in CHANNELS or 0 in stack.shape:
        rule = "images must have shape (H, W), (H, W, C), (N, H, W) or (N, H, W, C), C 1 to 4, and none may be empty"
        raise ImageError(rule, str(images.shape))
    return stack
