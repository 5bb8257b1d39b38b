"""``.npy`` files, rewritten through memory maps: a batch of small images or one large image at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from dae.data.arrays import DataError, ImageError, Pixels, as_stack, read_npy_header
from dae.data.formats.base import ImageFormat, ImageInfo, OpenedImage, Restore, decoding_errors, restore_stack
from dae.networks.predict import choose_batch_size

ARCHIVE = b"PK"


@dataclass(frozen=True)
class OpenedNpy(OpenedImage):
    """A ``.npy`` file that is open: its array, mapped, and a view of it as images ``(N, H, W, C)``."""

    array: Pixels
    stack: Pixels

    def rewrite(self, target: Path, restore: Restore) -> None:
        """Write a restored copy."""
        array, stack = self.array, self.stack
        columns_first = array.flags.f_contiguous and not array.flags.c_contiguous
        copy = np.lib.format.open_memmap(target, "w+", array.dtype, array.shape, fortran_order=columns_first)
        restored, size = as_stack(copy), choose_batch_size(stack.shape[1:])
        for start in range(0, len(stack), size):
            restored[start : start + size] = restore_stack(stack[start : start + size], restore)
        copy.flush()


class NpyFormat(ImageFormat):
    """One array of images in a ``.npy`` file, of a shape and a type that `dae.data.arrays.as_stack` accepts."""

    name = "NumPy array"
    suffixes = (".npy",)

    @contextmanager
    def open(self, path: Path) -> Iterator[OpenedNpy]:
        """Open a file, and read its header."""
        with decoding_errors(path):
            file = path.open("rb")
        with file:
            with decoding_errors(path):
                array = _map_array(path, file)
            try:
                stack = as_stack(array)
            except ImageError as error:
                raise DataError(path, error.rule, error.found) from error
            count, height, width, channels = stack.shape
            yield OpenedNpy(path, ImageInfo(count, (height, width, channels), str(stack.dtype)), array, stack)


def _map_array(path: Path, file: BinaryIO) -> Pixels:
    """Return the array in an open file as a memory map; `numpy.load` would open the file three times."""
    archive = file.read(len(ARCHIVE)) == ARCHIVE
    file.seek(0)
    if archive:
        raise DataError(path, "must hold one array", "an archive of arrays, .npz")
    shape, fortran_order, dtype = read_npy_header(file)
    if dtype.hasobject:
        raise DataError(path, "must hold numbers", "Python objects")
    order: Literal["F", "C"] = "F" if fortran_order else "C"
    array: Pixels = np.memmap(file, dtype, "r", offset=file.tell(), shape=shape, order=order)
    return array
