"""The base class of all image formats, and what their modules share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dae.data.arrays import CHANNELS, DataError, Pixels

Restore = Callable[[Pixels], Pixels]
"""Maps images ``(N, H, W, C)``, C 1 or 3, to images of the same shape and type; it may write to its input."""


@dataclass(frozen=True)
class ImageInfo:
    """The content of a file: the number of pages, and the shape ``(H, W, C)`` and the type of the first page."""

    pages: int
    shape: tuple[int, int, int]
    dtype: str

    def __str__(self) -> str:
        height, width, channels = self.shape
        pages = f"{self.pages} pages of " if self.pages > 1 else ""
        return f"{pages}{width}x{height}, {CHANNELS[channels]}, {self.dtype}"


@dataclass(frozen=True)
class OpenedImage(ABC):
    """An image file that is open, so that one opening serves to describe it and to rewrite it.

    Parameters
    ----------
    path : pathlib.Path
    info : ImageInfo
    """

    path: Path
    info: ImageInfo

    @abstractmethod
    def rewrite(self, target: Path, restore: Restore) -> None:
        """Write a restored copy of the file.

        Parameters
        ----------
        target : pathlib.Path
            The copy, in the same format.
        restore : callable
            Is given the images of each page, ``(N, H, W, C)`` with C 1 or 3, without alpha: alpha is copied.

        Raises
        ------
        DataError
            If the pixels cannot be decoded.
        """


class ImageFormat(ABC):
    """A format of image files.

    A subclass sets the attributes and writes `open`. If training images can have the format, it also writes `decode`. To add a
    format, put the subclass in a module and add it to the table in `dae.data.formats`.

    Attributes
    ----------
    name : str
        The format's name in messages.
    suffixes : tuple of str
        File name suffixes in lower case, with the dot.
    for_training : bool
        Whether images of this format are read from folders of training images.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    for_training: ClassVar[bool] = False

    @abstractmethod
    def open(self, path: Path) -> AbstractContextManager[OpenedImage]:
        """Open a file, and read its header.

        Raises
        ------
        DataError
            If the header cannot be read, or the file has features that are not supported.
        """

    def describe(self, path: Path) -> ImageInfo:
        """Return the content of a file, from its header.

        Raises
        ------
        DataError
            As `open` does.
        """
        with self.open(path) as image:
            return image.info

    def rewrite(self, source: Path, target: Path, restore: Restore) -> None:
        """Write a restored copy of a file.

        Raises
        ------
        DataError
            As `open` and `OpenedImage.rewrite` do.
        """
        with self.open(source) as image:
            image.rewrite(target, restore)

    def read(self, path: Path) -> Pixels:
        """Return a training image.

        Returns
        -------
        ndarray of uint8 or uint16, shape (H, W, C)
            C is 1 or 3. TIFF files may also hold other types, which `arrays.as_uint8` converts or refuses.

        Raises
        ------
        DataError
            If the file cannot be decoded, is neither grey nor RGB, or has a format that is not for training images.
        """
        with decoding_errors(path):
            pixels = self.decode(path)
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise DataError(path, "must be one grey or RGB image", f"shape {pixels.shape}")
        return pixels

    def decode(self, path: Path) -> Pixels:
        """Return the pixels of a training image, ``(H, W)`` or ``(H, W, C)``.

        `read` checks the shape, and turns the exceptions of decoders into `DataError`.
        """
        raise DataError(path, "must have a format that training images can have", self.name)


@contextmanager
def decoding_errors(path: Path) -> Iterator[None]:
    """Turn any exception of a decoder into a `DataError` that names the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # which type a decoder raises depends on the damage
        raise DataError(path, "must be a readable image", f"{type(error).__name__}: {error}") from error


def restore_stack(images: Pixels, restore: Restore) -> Pixels:
    """Return images ``(N, H, W, C)``, C 1 to 4, with restored colours and unchanged alpha."""
    if images.shape[3] in (1, 3):
        return restore(images)
    return np.concatenate([restore(images[..., :-1]), images[..., -1:]], axis=3, dtype=images.dtype)


def restore_page(page: Pixels, restore: Restore) -> Pixels:
    """Return one image, ``(H, W)`` or ``(H, W, C)``, with restored colours; a page with alpha is changed in place."""
    if page.ndim == 2:
        return np.asarray(restore(page[None, ..., None])[0, ..., 0])
    if page.shape[2] in (1, 3):
        return np.asarray(restore(page[None])[0])
    page[..., :-1] = restore(page[None, ..., :-1])[0]
    return page
