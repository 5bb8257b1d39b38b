"""PNG and JPEG files of training images, decoded by Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dae.data.arrays import DataError, Pixels

MODES = {"1": "L", "L": "L", "I;16": "I;16", "I;16B": "I;16", "I;16L": "I;16", "I": "I;16", "RGB": "RGB", "P": "RGB"}
"""Pillow's modes that are accepted, and the mode that each is converted to."""


def decode(path: Path) -> Pixels:
    """Return the pixels of an image, ``(H, W)`` or ``(H, W, 3)``.

    Pillow reads colour of 16 bits as 8 bits and ignores a transparent colour. The digests of stored image sets depend on both.

    Raises
    ------
    DataError
        If the image is neither grey nor RGB, or has an alpha channel.
    """
    from PIL import Image

    with Image.open(path) as image:
        if image.mode not in MODES:
            raise DataError(path, "must be grey or RGB, without transparency", f"mode {image.mode}")
        return np.asarray(image.convert(MODES[image.mode]))
