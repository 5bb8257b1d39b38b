"""Folders of training images: files of 8 or 16 bits, grey or RGB, whole or cut into patches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dae.data import formats
from dae.data.arrays import Block, DataError, as_uint8, images_per_block

UNFINISHED = (".part", ".tmp")


def find_image_files(folder: Path) -> tuple[Path, ...]:
    """Return the image files below a folder, sorted by path.

    Raises
    ------
    DataError
        If there is none.
    """
    files = _list_images(folder)
    if not files:
        raise DataError(folder, f"must hold {formats.list_training_formats()} images", "none")
    return files


def find_finished_files(folder: Path) -> tuple[Path, ...]:
    """Return the complete image files below a folder that receives new ones, sorted by path.

    A file is left out while it is being written. Then its name, or the name of a folder above it, begins with a dot or ends
    in ``.part`` or ``.tmp``.
    """
    return tuple(file for file in _list_images(folder) if not any(map(_is_unfinished, file.relative_to(folder).parts)))


def _list_images(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for file in folder.rglob("*") if formats.is_training_image(file) and file.is_file()))


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(UNFINISHED)


def read_image(path: Path) -> NDArray[np.generic]:
    """Return one image as uint8 or uint16, shape ``(H, W, C)`` with C 1 or 3.

    Raises
    ------
    DataError
        If it cannot be decoded, is neither grey nor RGB, or has a format that is not for training images.
    """
    return formats.find_format(path).read(path)


def cut_patches(image: Block, patch: int, path: Path) -> Block:
    """Return an image's patches, side by side from the top left; a rest at the right and the bottom is dropped.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, C)
    patch : int
        Side of a patch in pixels.

    Returns
    -------
    ndarray of uint8, shape (n, patch, patch, C)

    Raises
    ------
    DataError
        If the image is smaller than one patch.

    Examples
    --------
    >>> cut_patches(np.zeros((20, 30, 1), np.uint8), 10, Path("a.png")).shape
    (6, 10, 10, 1)
    """
    height, width, channels = image.shape
    if min(height, width) < patch:
        raise DataError(path, f"must be at least data.patch = {patch} pixels high and wide", f"{height}x{width}")
    rows, columns = height // patch, width // patch
    grid = image[: rows * patch, : columns * patch].reshape(rows, patch, columns, patch, channels)
    return grid.swapaxes(1, 2).reshape(-1, patch, patch, channels)


def iterate_blocks(files: tuple[Path, ...], patch: int | None, shape: tuple[int, ...] | None = None) -> Iterator[Block]:
    """Yield the images of a folder in blocks; with `patch`, one block of patches for each file.

    Parameters
    ----------
    files : tuple of Path
    patch : int, optional
        Side of a patch in pixels.
    shape : tuple of int, optional
        ``(H, W, C)`` that every image or patch must have; by default the shape of the first.

    Raises
    ------
    DataError
        If an image cannot be read, or has another size or number of channels.
    """
    expected = shape
    waiting: list[Block] = []
    for path in files:
        image = as_uint8(path, read_image(path)[None])[0]
        images = image[None] if patch is None else cut_patches(image, patch, path)
        expected = expected or images.shape[1:]
        if images.shape[1:] != expected:
            remedy = ", or be cut by data.patch" if patch is None and images.shape[3] == expected[2] else ""
            rule = f"must be {format_shape(expected)}" + ("" if shape else f" as {files[0].name} is{remedy}")
            raise DataError(path, rule, format_shape(images.shape[1:]))
        if patch is not None:
            yield images
            continue
        waiting.append(images)
        if len(waiting) == images_per_block(expected):
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def format_shape(shape: tuple[int, ...]) -> str:
    """Return a shape ``(H, W, C)`` as text.

    Examples
    --------
    >>> format_shape((28, 28, 1))
    '28x28 with 1 channel'
    """
    return f"{shape[0]}x{shape[1]} with {shape[2]} channel{'s' if shape[2] > 1 else ''}"
