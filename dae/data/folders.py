"""Folders of image files: PNG, JPEG and TIFF of 8 or 16 bits, grey or RGB, whole or cut into patches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dae.data.arrays import Block, DataError, as_uint8, images_per_block

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
UNFINISHED = (".part", ".tmp")
MODES = {"1": "L", "L": "L", "I;16": "I;16", "I;16B": "I;16", "I;16L": "I;16", "I": "I;16", "RGB": "RGB", "P": "RGB"}


def find_image_files(folder: Path) -> tuple[Path, ...]:
    """Return the image files below a folder, sorted by path.

    Raises
    ------
    DataError
        If there is none.
    """
    files = _images(folder)
    if not files:
        raise DataError(folder, "must hold PNG, JPEG or TIFF images", "none")
    return files


def find_finished_files(folder: Path) -> tuple[Path, ...]:
    """Return the image files below a folder that new ones are put into, sorted by path; none if there is none.

    A file is left out while it is being written, which its name says: it, or that of a folder it lies in, begins with a dot
    or ends in ``.part`` or ``.tmp``.
    """
    return tuple(file for file in _images(folder) if not any(map(_unfinished, file.relative_to(folder).parts)))


def _images(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()))


def _unfinished(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(UNFINISHED)


def read_image(path: Path) -> NDArray[np.generic]:
    """Return one image as uint8 or uint16, shape ``(H, W, C)`` with C 1 or 3.

    Raises
    ------
    DataError
        If it cannot be decoded, or is neither grey nor RGB.
    """
    try:
        pixels = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _read_with_pillow(path)
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever the damage makes them
        raise DataError(path, "must be a readable image", f"{type(error).__name__}: {error}") from error
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise DataError(path, "must be one grey or RGB image", f"shape {pixels.shape}")
    return pixels


def _read_with_pillow(path: Path) -> NDArray[np.generic]:
    from PIL import Image

    with Image.open(path) as image:
        if image.mode not in MODES:
            raise DataError(path, "must be grey or RGB, without transparency", f"mode {image.mode}")
        return np.asarray(image.convert(MODES[image.mode]))


def _read_tiff(path: Path) -> NDArray[np.generic]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        pixels = np.asarray(tiff.asarray())
        page = tiff.pages.first
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
        planar = page.samplesperpixel > 1 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB"):  # a palette's pixels are numbers of colours
        raise DataError(path, "must be grey or RGB", photometric)
    if photometric == "MINISWHITE":
        pixels = np.invert(pixels)
    return np.moveaxis(pixels, 0, -1) if planar else pixels


def cut_patches(image: Block, patch: int, path: Path) -> Block:
    """Return an image's patches, side by side from the top left; what is left at the right and the bottom is dropped.

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
    """Yield the images of a folder in blocks; with `patch`, one block of patches a file.

    Parameters
    ----------
    files : tuple of Path
    patch : int, optional
        Side of a patch in pixels.
    shape : tuple of int, optional
        ``(H, W, C)`` that every image or patch must have; by default that of the first.

    Raises
    ------
    DataError
        On an unreadable image, or one of another size or number of channels.
    """
    first = shape
    gathered: list[Block] = []
    for path in files:
        image = as_uint8(path, read_image(path)[None])[0]
        made = image[None] if patch is None else cut_patches(image, patch, path)
        first = first or made.shape[1:]
        if made.shape[1:] != first:
            cure = ", or be cut by data.patch" if patch is None and made.shape[3] == first[2] else ""
            rule = f"must be {format_shape(first)}" + ("" if shape else f" as {files[0].name} is{cure}")
            raise DataError(path, rule, format_shape(made.shape[1:]))
        if patch is not None:
            yield made
            continue
        gathered.append(made)
        if len(gathered) == images_per_block(first):
            yield np.concatenate(gathered)
            gathered = []
    if gathered:
        yield np.concatenate(gathered)


def format_shape(shape: tuple[int, ...]) -> str:
    """Return a shape ``(H, W, C)`` in words.

    Examples
    --------
    >>> format_shape((28, 28, 1))
    '28x28 with 1 channel'
    """
    return f"{shape[0]}x{shape[1]} with {shape[2]} channel{'s' if shape[2] > 1 else ''}"
