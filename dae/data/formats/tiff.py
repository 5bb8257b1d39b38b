"""TIFF files, rewritten page by page: layout, compression and the common tags are kept.

A palette becomes RGB, JPEG is written at quality 95 without chroma subsampling, and a compression that cannot be written
becomes deflate. Tags that point to another place in the file, such as EXIF's, are left out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dae.data.arrays import DataError, Pixels
from dae.data.formats.base import ImageFormat, ImageInfo, OpenedImage, Restore, decoding_errors, restore_page

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

COLOURS = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3, "YCBCR": 3, "PALETTE": 3}
COMPRESSIONS = {"NONE", "LZW", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS", "LZMA", "ZSTD", "JPEG"}
JPEG_QUALITY = 95
SEPARATE = 2
TAGS = (
    *(269, 271, 272, 274, 285, 297, 315, 316, 700, 33432, 33723),  # names, orientation, page, artist, XMP, rights, IPTC
    *(33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113),  # location on Earth
)
"""Copied unchanged. tifffile has options for size, type, layout, resolution, description, date, software and profile."""


HARMLESS = (" series ", "GDAL_NODATA", "subfiletype", "_metadata>")
"""Parts of tifffile's log messages about things that are not used here: series of pages, and notes of other programs."""
_thread = threading.local()


@dataclass(frozen=True)
class OpenedTiff(OpenedImage):
    """A TIFF file that is open, and its pages."""

    tiff: TiffFile
    pages: list[TiffPage]

    def rewrite(self, target: Path, restore: Restore) -> None:
        """Write a restored copy."""
        import tifffile

        tiff = self.tiff
        with tifffile.TiffWriter(target, bigtiff=tiff.is_bigtiff, byteorder=tiff.byteorder) as writer:
            for page in self.pages:
                with decoding_errors(self.path), _logged_errors(self.path):
                    pixels = _read(page)
                data = _as_stored(page, restore_page(pixels, restore))
                del pixels
                writer.write(data, **_layout(page), **_metadata(page))


class TiffFormat(ImageFormat):
    """TIFF files of one or more pages: grey, RGB or with a palette."""

    name = "TIFF"
    suffixes = (".tif", ".tiff")
    for_training = True

    @contextmanager
    def open(self, path: Path) -> Iterator[OpenedTiff]:
        """Open a file, and check the directories of all its pages."""
        import tifffile

        with decoding_errors(path), _logged_errors(path):
            tiff = tifffile.TiffFile(path)
        with tiff:
            with decoding_errors(path), _logged_errors(path):
                pages = _pages(path, tiff)
            first: Any = pages[0]
            channels = 3 if first.photometric.name == "PALETTE" else first.samplesperpixel
            info = ImageInfo(len(pages), (first.imagelength, first.imagewidth, channels), str(first.dtype))
            yield OpenedTiff(path, info, tiff, pages)

    def decode(self, path: Path) -> Pixels:
        """Return the pixels of a training image."""
        import tifffile

        with tifffile.TiffFile(path) as tiff:
            pixels, page = np.asarray(tiff.asarray()), tiff.pages.first
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
        if photometric not in ("MINISBLACK", "MINISWHITE", "RGB"):  # the pixels of a palette are numbers of colours
            raise DataError(path, "must be grey or RGB", photometric)
        return _channels_last(page, np.invert(pixels) if photometric == "MINISWHITE" else pixels)


def _capture(record: logging.LogRecord) -> bool:
    """Keep tifffile's log records while this thread reads a file; let all others pass."""
    records: list[logging.LogRecord] | None = getattr(_thread, "records", None)
    if records is None:
        return True
    records.append(record)
    return False


@contextmanager
def _logged_errors(path: Path) -> Iterator[None]:
    """Turn damage that tifffile only logs, such as a missing page, into a `DataError`.

    Raises
    ------
    DataError
        If it logs a warning or an error.
    """
    logging.getLogger("tifffile").addFilter(_capture)
    outer, _thread.records = getattr(_thread, "records", None), []
    try:
        yield
        for record in _thread.records:
            message = record.getMessage()
            harmless = any(part in message for part in HARMLESS) and "corrupted file" not in message
            if record.levelno >= logging.WARNING and not harmless:
                raise DataError(path, "must be whole, not damaged or cut short", message)
    finally:
        _thread.records = outer


def _pages(path: Path, tiff: TiffFile) -> list[TiffPage]:
    """Return the pages, after a check that all of them are supported."""
    pages: list[Any] = [tiff.pages[index] for index in range(len(tiff.pages))]
    if not pages:
        raise DataError(path, "must hold a page", "none")
    for number, page in enumerate(pages, 1):
        for satisfied, rule, value in _rules(page):
            if not satisfied:
                raise DataError(path, f"page {number} {rule}", value)
        needed, size = _end(page), tiff.filehandle.size
        if needed > size:
            raise DataError(path, f"page {number} is cut short: the file must have {needed} bytes", f"{size}")
    if tiff.is_shaped or tiff.is_imagej:
        _require_directories(path, tiff)
    return pages


def _end(page: Any) -> int:
    """Return the number of bytes a file needs to hold a page."""
    parts = zip(page.dataoffsets, page.databytecounts, strict=False)
    return max((int(offset + count) for offset, count in parts if count), default=0)


def _require_directories(path: Path, tiff: TiffFile) -> None:
    """Refuse stacks in which only the first page has a directory: ImageJ writes such files above 4 GB."""
    for series in tiff.series:
        if series.is_truncated:
            needed, size = series.dataoffset or 0, tiff.filehandle.size
            if needed + series.nbytes > size:
                raise DataError(path, f"is cut short: the file must have {needed + series.nbytes} bytes", f"{size}")
            raise DataError(path, "must have a directory for each page", f"one for {series.shape}")


def _rules(page: Any) -> list[tuple[bool, str, str]]:
    """Return, for each rule, whether a page satisfies it, its text, and the page's value."""
    photometric = getattr(page.photometric, "name", str(page.photometric))
    colours = 1 if photometric == "PALETTE" else COLOURS.get(photometric, 0)
    compression = getattr(page.compression, "name", "")
    bits, dtype = page.bitspersample, page.dtype
    kind = f"{bits} bits as {dtype}"
    whole = dtype is not None and bits == dtype.itemsize * 8
    supported = whole and ((dtype.kind == "u" and bits in (8, 16)) or (dtype.kind == "f" and bits in (16, 32, 64)))
    return [
        (colours > 0, "must be grey, RGB or a palette", photometric),
        (supported, "must have unsigned integers of 8 or 16 bits, or floats", kind),
        (photometric != "PALETTE" or dtype.kind == "u", "must have whole numbers for a palette", kind),
        (
            0 <= page.samplesperpixel - colours <= (photometric != "PALETTE"),
            "must have no samples but colours and one alpha",
            f"{page.samplesperpixel} samples, {photometric}",
        ),
        (photometric != "YCBCR" or compression == "JPEG", "must be RGB unless it is JPEG inside", photometric),
        (page.imagedepth == 1, "must be flat", f"a depth of {page.imagedepth}"),
        (not page.subifds, "must have no pages below it", f"{len(page.subifds or ())}"),
    ]


def _read(page: Any) -> Pixels:
    """Return a page as ``(H, W, C)``, with high values for light."""
    pixels: Pixels = np.asarray(page.asarray())
    if page.photometric.name == "PALETTE":
        return np.asarray(np.moveaxis(_colours(page), 0, -1)[pixels])
    pixels = _channels_last(page, pixels)
    return _swap_light_and_dark(page, pixels.reshape(page.imagelength, page.imagewidth, -1))


def _channels_last(page: Any, pixels: Pixels) -> Pixels:
    return np.moveaxis(pixels, 0, -1) if _is_separate(page) else pixels


def _colours(page: Any) -> Pixels:
    table: Any = page.colormap
    return np.asarray(table >> 8 if page.bitspersample == 8 else table, page.dtype)


def _swap_light_and_dark(page: Any, pixels: Pixels) -> Pixels:
    """Invert the grey values if 0 is white. Alpha stays, and so do floats, which have no largest value."""
    if page.photometric.name != "MINISWHITE" or pixels.dtype.kind == "f":
        return pixels
    return np.concatenate([np.invert(pixels[..., :1]), pixels[..., 1:]], axis=2)


def _as_stored(page: Any, pixels: Pixels) -> Pixels:
    pixels = _swap_light_and_dark(page, pixels)
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0) if _is_separate(page) else pixels)


def _is_separate(page: Any) -> bool:
    return page.samplesperpixel > 1 and int(page.planarconfig) == SEPARATE


def _layout(page: Any) -> dict[str, Any]:
    """Return tifffile's options for the layout of the pixels."""
    photometric = "rgb" if COLOURS[page.photometric.name] == 3 else page.photometric.name.lower()
    compression = getattr(page.compression, "name", "")
    jpeg, colour = compression == "JPEG", photometric == "rgb"
    colours_only = not page.extrasamples and not _is_separate(page)
    if compression not in COMPRESSIONS or (jpeg and not colours_only):
        compression, jpeg = "ADOBE_DEFLATE", False
    outcolour = {"outcolorspace": page.photometric.name} if colour else {}  # JPEG inside TIFF has RGB or YCbCr
    predictor = page.predictor if compression not in ("NONE", "JPEG", "PACKBITS") else 1
    return {
        "photometric": photometric,
        "planarconfig": ("separate" if _is_separate(page) else "contig")
        if photometric == "rgb" or page.extrasamples
        else None,
        "extrasamples": [int(sample) for sample in page.extrasamples] or None,
        "compression": None if compression == "NONE" else compression,
        "compressionargs": {"level": JPEG_QUALITY} | outcolour if jpeg else None,
        "subsampling": (1, 1) if jpeg and colour else None,
        "predictor": int(predictor) if predictor != 1 else None,
        "tile": (page.tilelength, page.tilewidth) if page.is_tiled else None,
        "subfiletype": int(page.subfiletype),
    }


def _metadata(page: Any) -> dict[str, Any]:
    def value(code: int) -> Any:
        return page.tags.valueof(code)

    resolution = (value(282), value(283)) if value(282) and value(283) else None
    description = value(270)
    return {
        "resolution": resolution,
        "resolutionunit": page.resolutionunit if resolution else None,
        "description": description.encode() if isinstance(description, str) else description,
        "datetime": value(306),
        "software": value(305) or False,
        "iccprofile": value(34675),
        "metadata": None,
        "extratags": [_copied(page.tags[code]) for code in TAGS if isinstance(value(code), str | bytes | tuple | int)],
    }


def _copied(tag: Any) -> tuple[int, int, int | None, Any, bool]:
    if isinstance(tag.value, str):
        return tag.code, int(tag.dtype), None, tag.value.encode(), True
    return tag.code, int(tag.dtype), tag.count, tag.value, True
