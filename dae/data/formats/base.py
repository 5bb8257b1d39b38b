"""What the formats of image files have in common: what they hold, in which shapes, and how a bad one is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dae.data.arrays import DataError

Pixels = NDArray[Any]
Restore = Callable[[Pixels], Pixels]
"""Maps images ``(N, H, W, C)``, C 1 or 3, to images of the same shape and type; those it is given may be written to."""
TYPES = {("u", 1), ("u", 2), ("f", 2), ("f", 4), ("f", 8)}
CHANNELS = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGB and alpha"}


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


@dataclass(frozen=True)
class Described:
    """What a file holds: its pages, and the shape ``(H, W, C)`` and the type of the first."""

    pages: int
    shape: tuple[int, int, int]
    dtype: str

    def __str__(self) -> str:
        height, width, channels = self.shape
        pages = f"{self.pages} pages of " if self.pages > 1 else ""
        return f"{pages}{width}x{height}, {CHANNELS[channels]}, {self.dtype}"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a `DataError` about the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever the damage makes them
        raise DataError(path, "must be a readable image", f"{type(error).__name__}: {error}") from error


def with_alpha_kept(images: Pixels, restore: Restore) -> Pixels:
    """Return images ``(N, H, W, C)``, C 1 to 4, with their colours restored and their alpha as it was."""
    if images.shape[3] in (1, 3):
        return restore(images)
    return np.concatenate([restore(images[..., :-1]), images[..., -1:]], axis=3, dtype=images.dtype)


def page_restored(page: Pixels, restore: Restore) -> Pixels:
    """Return one image, ``(H, W)`` or ``(H, W, C)``, with its colours restored; where it has alpha, in its own memory."""
    if page.ndim == 2:
        return np.asarray(restore(page[None, ..., None])[0, ..., 0])
    if page.shape[2] in (1, 3):
        return np.asarray(restore(page[None])[0])
    page[..., :-1] = restore(page[None, ..., :-1])[0]
    return page


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
