"""``.npy`` files rewritten through memory maps, a batch of small images or one large one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dae.data.arrays import DataError, ImageError, Pixels, as_stack
from dae.data.formats.base import ImageInfo, Restore, decoding_errors, restore_stack
from dae.networks.predict import choose_batch_size


def _opened(path: Path) -> tuple[Pixels, Pixels]:
    """Return the array, mapped, and a view of it as images ``(N, H, W, C)``."""
    with decoding_errors(path):
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(mapped, np.ndarray):
        mapped.close()
        raise DataError(path, "must hold one array", "an archive of arrays, .npz")
    try:
        return mapped, as_stack(mapped)
    except ImageError as error:
        raise DataError(path, error.rule, error.found) from error


def describe(path: Path) -> ImageInfo:
    """Return what a file holds, from its header.

    Raises
    ------
    DataError
        If it cannot be read, or `base.as_stack` does not take it.
    """
    _, stack = _opened(path)
    count, height, width, channels = stack.shape
    return ImageInfo(count, (height, width, channels), str(stack.dtype))


def rewrite(source: Path, target: Path, restore: Restore) -> None:
    """Write an array like another, with every image restored.

    Raises
    ------
    DataError
        If it cannot be read, or `base.as_stack` does not take it.
    """
    mapped, stack = _opened(source)
    columns_first = mapped.flags.f_contiguous and not mapped.flags.c_contiguous
    out = np.lib.format.open_memmap(target, "w+", mapped.dtype, mapped.shape, fortran_order=columns_first)
    places, size = as_stack(out), choose_batch_size(stack.shape[1:])
    for start in range(0, len(stack), size):
        places[start : start + size] = restore_stack(stack[start : start + size], restore)
    out.flush()
