"""JPEG files rewritten by Pillow, at quality 95 and with colour at full resolution.

Profile, EXIF, XMP, density and comment are kept; the EXIF orientation stays a tag. Of a file that holds several pictures, as
phones write them, the first is what comes out.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dae.data.arrays import DataError
from dae.data.formats.base import ImageInfo, Restore, decoding_errors, restore_page

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 95
METADATA = ("icc_profile", "exif", "xmp", "dpi", "comment")


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    from PIL import Image

    with decoding_errors(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path, formats=("JPEG",))
    with image:
        if image.mode not in ("L", "RGB"):
            raise DataError(path, "must be grey or RGB", f"mode {image.mode}")
        yield image


def describe(path: Path) -> ImageInfo:
    """Return what a file holds, from its header.

    Raises
    ------
    DataError
        If it cannot be read, or is neither grey nor RGB.
    """
    with _opened(path) as image:
        return ImageInfo(1, (image.height, image.width, len(image.getbands())), "uint8")


def rewrite(source: Path, target: Path, restore: Restore) -> None:
    """Write a JPEG file like another, with its pixels restored.

    Raises
    ------
    DataError
        If it cannot be read, or is neither grey nor RGB.
    """
    from PIL import Image

    with _opened(source) as image:
        kept = {name: image.info[name] for name in METADATA if name in image.info}
        with decoding_errors(source):
            pixels = np.asarray(image)
    restored = restore_page(pixels, restore)
    del pixels
    Image.fromarray(restored).save(target, "JPEG", quality=QUALITY, subsampling=0, **kept)
