"""Image formats: their table, and files of any of them described and rewritten.

Rewriting passes the colours of every page through a function; format, type, size, alpha and metadata do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dae.data.arrays import DataError
from dae.data.formats.base import ImageFormat, ImageInfo, OpenedImage, Restore
from dae.data.formats.jpeg import JpegFormat
from dae.data.formats.npy import NpyFormat
from dae.data.formats.png import PngFormat
from dae.data.formats.tiff import TiffFormat

BUILT_IN: tuple[ImageFormat, ...] = (PngFormat(), JpegFormat(), TiffFormat(), NpyFormat())
"""The formats of this package. To add one, write it in a module and add it here."""
FORMATS: dict[str, ImageFormat] = {
    suffix: image_format for image_format in BUILT_IN for suffix in image_format.suffixes
}
"""The format of each file name suffix."""


def register_format(image_format: ImageFormat) -> None:
    """Add a format at run time.

    Raises
    ------
    ValueError
        If a suffix has no dot, is not in lower case, or belongs to another format.
    """
    for suffix in image_format.suffixes:
        if not suffix.startswith(".") or suffix != suffix.lower():
            raise ValueError(f"a suffix must begin with a dot and be in lower case, received {suffix!r}")
        if suffix in FORMATS:
            raise ValueError(f"a suffix must belong to one format, {suffix} is already {FORMATS[suffix].name}")
    FORMATS.update(dict.fromkeys(image_format.suffixes, image_format))


def find_format(path: Path) -> ImageFormat:
    """Return the format of a file, by its suffix.

    Raises
    ------
    DataError
        If no format has the suffix.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise DataError(path, f"must be one of {', '.join(FORMATS)}", path.suffix or "no suffix") from None


def same_format(one: Path, other: Path) -> bool:
    """Tell whether two paths have the same format, by their suffixes.

    Examples
    --------
    >>> same_format(Path("a.jpg"), Path("b.JPEG")), same_format(Path("a.png"), Path("b"))
    (True, False)
    """
    return FORMATS.get(one.suffix.lower()) is FORMATS.get(other.suffix.lower())


def is_training_image(path: Path) -> bool:
    """Tell whether a path has the suffix of a format for training images.

    Examples
    --------
    >>> is_training_image(Path("a.PNG")), is_training_image(Path("a.npy"))
    (True, False)
    """
    image_format = FORMATS.get(path.suffix.lower())
    return image_format is not None and image_format.for_training


def list_training_formats() -> str:
    """Return the names of the formats for training images, as text.

    Examples
    --------
    >>> list_training_formats()
    'PNG, JPEG or TIFF'
    """
    *names, last = dict.fromkeys(image_format.name for image_format in FORMATS.values() if image_format.for_training)
    return f"{', '.join(names)} or {last}"


@contextmanager
def open_image(path: Path) -> Iterator[OpenedImage]:
    """Open an image file, to describe it and to rewrite it.

    Raises
    ------
    DataError
        If it cannot be read, or its format is not supported.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(path, "must be a file", f"a link to {path.readlink()}, which is not there")
    with find_format(path).open(path) as image:
        yield image


def describe(path: Path) -> ImageInfo:
    """Return the content of an image file, from its header.

    Raises
    ------
    DataError
        If it cannot be read, or its format is not supported.
    """
    with open_image(path) as image:
        return image.info


def rewrite(source: Path, target: Path, restore: Restore) -> None:
    """Write a restored copy of an image file.

    Parameters
    ----------
    source : pathlib.Path
        A file of a format in `FORMATS`.
    target : pathlib.Path
        The copy, in the same format.
    restore : callable
        Maps images of the file's type, ``(N, H, W, C)`` with C 1 or 3, to images of the same shape and type. N is 1, except for
        arrays. It may write to its input. Alpha does not pass through it: it is copied.

    Raises
    ------
    DataError
        If the file cannot be read, or its format is not supported. It names the file, the rule and the value that breaks it.
    """
    with open_image(source) as image:
        image.rewrite(target, restore)
