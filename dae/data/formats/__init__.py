"""Image files rewritten: the colours of every page go through a function; format, type, size, alpha and metadata stay."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from dae.data.arrays import DataError
from dae.data.formats import jpeg, npy, png, tiff
from dae.data.formats.base import ImageInfo, Restore

FORMATS = {
    ".png": png,
    ".jpg": jpeg,
    ".jpeg": jpeg,
    ".tif": tiff,
    ".tiff": tiff,
    ".npy": npy,
}


def same_format(one: Path, other: Path) -> bool:
    """Tell whether two paths are of one format, by their suffixes.

    Examples
    --------
    >>> same_format(Path("a.jpg"), Path("b.JPEG")), same_format(Path("a.png"), Path("b"))
    (True, False)
    """
    return FORMATS.get(one.suffix.lower()) is FORMATS.get(other.suffix.lower())


def describe(path: Path) -> ImageInfo:
    """Return what a file holds, from its header.

    Raises
    ------
    DataError
        If it cannot be read, or is of a kind that is not supported.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(path, "must be a file", f"a link to {path.readlink()}, which is not there")
    described: ImageInfo = _format(path).describe(path)
    return described


def rewrite(source: Path, target: Path, restore: Restore) -> None:
    """Write a file like another, with every page's colours restored.

    Parameters
    ----------
    source : pathlib.Path
        A PNG, JPEG, TIFF or ``.npy`` file.
    target : pathlib.Path
        Of the same format.
    restore : callable
        Maps images of the file's type, ``(N, H, W, C)`` with C 1 or 3, to images of the same shape and type. N is 1 but for
        arrays. It may write to the images it is given. Alpha does not go through it: it is copied.

    Raises
    ------
    DataError
        If the file cannot be read, or is of a kind that is not supported; it names the file, the rule and what was found.
    """
    _format(source).rewrite(source, target, restore)


def _format(path: Path) -> ModuleType:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise DataError(path, f"must be one of {', '.join(FORMATS)}", path.suffix or "no suffix") from None
