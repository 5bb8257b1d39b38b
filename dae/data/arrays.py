"""Image arrays: the shapes and types that are accepted, and their conversion to uint8."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import IO, Any

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
    """Return the number of images of a shape in a block: about a million values.

    A block is read at once and has a random stream of its own. Its size depends only on the shape, so that the noise does not
    depend on the batch size or the number of workers.

    Examples
    --------
    >>> images_per_block((28, 28, 1)), images_per_block((512, 512, 3))
    (1024, 1)
    """
    return max(1, min(MAX_BLOCK, BLOCK_PIXELS // math.prod(shape)))


def npy_sha256(*paths: Path | str) -> str:
    """Return the SHA-256 of the elements in ``.npy`` files, one file after the other.

    The files are read in chunks and not mapped, since pages of a mapped file count as memory of the process.

    Raises
    ------
    ValueError
        If a file is not a ``.npy`` file.
    """
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            read_npy_header(file)
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape, whether the order is Fortran's, and the type of the array in a ``.npy`` file.

    The file is read up to the first element.

    Raises
    ------
    ValueError
        If it is not a ``.npy`` file.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read_header(file)
    return shape, fortran_order, dtype


class DataError(ValueError):
    """Input data breaks a rule; the message names the file, the rule and the value that breaks it.

    Parameters
    ----------
    path : Path
        The file, or the place inside it.
    rule : str
        The rule, such as ``"must be grey or RGB"``.
    found : str
        The value that breaks it.
    """

    def __init__(self, path: Path | str, rule: str, found: str) -> None:
        super().__init__(f"{path}: {rule}; found {found}")


def as_uint8(path: Path, images: NDArray[np.generic], first: int = 0) -> Block:
    """Return images as uint8 of shape ``(n, H, W, C)``.

    Parameters
    ----------
    path : Path
        The file that errors name.
    images : ndarray, shape (n, H, W) or (n, H, W, C) with C 1 or 3
        uint8 is unchanged, uint16 is scaled by 1/257, floats in [0, 1] are scaled by 255; all are rounded to the nearest.
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
    """Pixels break a rule.

    Parameters
    ----------
    rule : str
        The rule, such as ``"float pixels must be finite"``.
    found : str
        The value that breaks it.
    """

    def __init__(self, rule: str, found: str) -> None:
        super().__init__(f"{rule}; found {found}")
        self.rule, self.found = rule, found


def as_stack(images: Pixels) -> Pixels:
    """Return a view of an array as images ``(N, H, W, C)``.

    Parameters
    ----------
    images : ndarray, shape (H, W), (H, W, C), (N, H, W) or (N, H, W, C)
        C is 1 to 4; with 2 and 4 the last channel is alpha. In an array of three axes, the last axis is channels if it has at
        most 4 elements; otherwise the first axis is the number of images.

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
