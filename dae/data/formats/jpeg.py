"""JPEG files, rewritten by Pillow at quality 95 without chroma subsampling.

ICC profile, EXIF, XMP, density and comment are kept; the EXIF orientation stays a tag. If a file holds several pictures, as
those of phones do, only the first one is restored and written.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dae.data.arrays import DataError, Pixels
from dae.data.formats import pillow
from dae.data.formats.base import ImageFormat, ImageInfo, OpenedImage, Restore, decoding_errors, restore_page

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 95
METADATA = ("icc_profile", "exif", "xmp", "dpi", "comment")


@dataclass(frozen=True)
class OpenedJpeg(OpenedImage):
    """A JPEG file that is open. Its pixels are decoded when it is rewritten, which is possible once."""

    image: Image

    def rewrite(self, target: Path, restore: Restore) -> None:
        """Write a restored copy."""
        from PIL import Image

        metadata = {name: self.image.info[name] for name in METADATA if name in self.image.info}
        with decoding_errors(self.path):
            pixels = np.asarray(self.image)
        self.image.close()  # frees Pillow's own copy of the pixels
        restored = restore_page(pixels, restore)
        del pixels
        Image.fromarray(restored).save(target, "JPEG", quality=QUALITY, subsampling=0, **metadata)


class JpegFormat(ImageFormat):
    """Grey and RGB JPEG files."""

    name = "JPEG"
    suffixes = (".jpg", ".jpeg")
    for_training = True

    @contextmanager
    def open(self, path: Path) -> Iterator[OpenedJpeg]:
        """Open a file, and read its header."""
        from PIL import Image

        with decoding_errors(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("JPEG",))
        with image:
            if image.mode not in ("L", "RGB"):
                raise DataError(path, "must be grey or RGB", f"mode {image.mode}")
            shape = (image.height, image.width, len(image.getbands()))
            yield OpenedJpeg(path, ImageInfo(1, shape, "uint8"), image)

    def decode(self, path: Path) -> Pixels:
        """Return the pixels of a training image."""
        return pillow.decode(path)
