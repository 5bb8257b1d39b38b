"""What the formats of image files have in common: what they hold, in which shapes, and how a bad one is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dae.data.arrays import CHANNELS, DataError, Pixels

Restore = Callable[[Pixels], Pixels]
"""Maps images ``(N, H, W, C)``, C 1 or 3, to images of the same shape and type; those it is given may be written to."""


@dataclass(frozen=True)
class ImageInfo:
    """What a file holds: its pages, and the shape ``(H, W, C)`` and the type of the first."""

    pages: int
    shape: tuple[int, int, int]
    dtype: str

    def __str__(self) -> str:
        height, width, channels = self.shape
        pages = f"{self.pages} pages of " if self.pages > 1 else ""
        return f"{pages}{width}x{height}, {CHANNELS[channels]}, {self.dtype}"


@contextmanager
def decoding_errors(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a `DataError` about the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever the damage makes them
        raise DataError(path, "must be a readable image", f"{type(error).__name__}: {error}") from error


def restore_stack(images: Pixels, restore: Restore) -> Pixels:
    """Return images ``(N, H, W, C)``, C 1 to 4, with their colours restored and their alpha as it was."""
    if images.shape[3] in (1, 3):
        return restore(images)
    return np.concatenate([restore(images[..., :-1]), images[..., -1:]], axis=3, dtype=images.dtype)


def restore_page(page: Pixels, restore: Restore) -> Pixels:
    """Return one image, ``(H, W)`` or ``(H, W, C)``, with its colours restored; where it has alpha, in its own memory."""
    if page.ndim == 2:
        return np.asarray(restore(page[None, ..., None])[0, ..., 0])
    if page.shape[2] in (1, 3):
        return np.asarray(restore(page[None])[0])
    page[..., :-1] = restore(page[None, ..., :-1])[0]
    return page
