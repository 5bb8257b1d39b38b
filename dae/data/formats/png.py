"""PNG files, rewritten by imagecodecs, which also supports 16 bits in colour; the chunks with metadata are copied.

A palette becomes RGB, a transparent colour becomes an alpha channel, and grey of fewer than 8 bits becomes 8 bits.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dae.data.arrays import DataError, Pixels
from dae.data.formats import pillow
from dae.data.formats.base import ImageFormat, ImageInfo, OpenedImage, Restore, decoding_errors, restore_page

LEVEL = 3
"""Compression level: it takes a quarter of the default level's time, for a file that is 5 % larger."""
SIGNATURE, HEADER = 8, 33
MARGIN = 1 << 16
"""Bytes reserved for everything but pixels when a file is encoded."""
CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
METADATA = {b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"pHYs", b"eXIf", b"tEXt", b"zTXt", b"iTXt"}


@dataclass(frozen=True)
class OpenedPng(OpenedImage):
    """A PNG file that is open."""

    file: BinaryIO

    def rewrite(self, target: Path, restore: Restore) -> None:
        """Write a restored copy."""
        with decoding_errors(self.path):
            pixels, metadata = _read(self.file)
        restored = restore_page(pixels, restore)
        del pixels
        _write(target, restored, metadata)


class PngFormat(ImageFormat):
    """PNG files of 1 to 16 bits, without animation."""

    name = "PNG"
    suffixes = (".png",)
    for_training = True

    @contextmanager
    def open(self, path: Path) -> Iterator[OpenedPng]:
        """Open a file, and read its header."""
        with path.open("rb") as file:
            yield OpenedPng(path, _read_info(path, file), file)

    def decode(self, path: Path) -> Pixels:
        """Return the pixels of a training image."""
        return pillow.decode(path)


def _read_info(path: Path, file: BinaryIO) -> ImageInfo:
    header = file.read(HEADER)
    animated = _is_animated(file)
    if len(header) < HEADER or header[12:16] != b"IHDR":
        raise DataError(path, "must be a PNG file", f"one that begins with {header[:SIGNATURE]!r}")
    width, height, bits, colour = struct.unpack(">IIBB", header[16:26])
    channels = CHANNELS.get(colour)
    if channels is None:
        raise DataError(path, f"must have a colour type of {', '.join(map(str, CHANNELS))}", str(colour))
    if animated:
        raise DataError(path, "must be a single image", "an animation")
    return ImageInfo(1, (height, width, channels), "uint16" if bits == 16 else "uint8")


def _is_animated(file: BinaryIO) -> bool:
    """Tell whether the chunk of animations comes before the pixels, where the standard requires it."""
    file.seek(SIGNATURE)
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name in (b"acTL", b"IDAT"):
            return bool(name == b"acTL")
        file.seek(length + 4, os.SEEK_CUR)
    return False


def _read(file: BinaryIO) -> tuple[Pixels, list[bytes]]:
    """Return the pixels and the chunks of metadata."""
    import imagecodecs

    file.seek(0)
    data = file.read()
    return imagecodecs.png_decode(data), [chunk for name, chunk in _chunks(data) if name in METADATA]


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the bytes of every chunk; the bytes of pixels are left out."""
    start = SIGNATURE
    while start + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[start : start + 8])
        yield name, b"" if name == b"IDAT" else data[start : start + length + 12]
        start += length + 12


def _write(path: Path, pixels: Pixels, metadata: list[bytes]) -> None:
    import imagecodecs

    size = pixels.nbytes + pixels.nbytes // 32 + MARGIN
    buffer: Any = np.empty(size, np.uint8)  # imagecodecs copies a buffer of its own
    encoded = memoryview(imagecodecs.png_encode(np.ascontiguousarray(pixels), LEVEL, out=buffer))
    with path.open("wb") as file:
        file.write(encoded[:HEADER])
        file.writelines(metadata)
        file.write(encoded[HEADER:])
