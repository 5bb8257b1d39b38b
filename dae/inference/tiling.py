"""Restore images of any size in overlapping tiles, blended smoothly, one band of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dae.schemas import Images

CELL = 4
"""Tiles begin at multiples of the default network's coarsest pixels, so that the grid is the same in every tile."""
Read = Callable[[slice], Images]
Apply = Callable[[Images], Images]


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis of an image, and their weights.

    Attributes
    ----------
    tile : int
        Side of a tile, in pixels.
    starts : tuple of int
        First pixel of each tile.
    weights : ndarray of float32, shape (tiles, tile)
        Weight of each tile at each of its pixels. At every pixel of the axis the weights add up to 1.
    """

    tile: int
    starts: tuple[int, ...]
    weights: NDArray[np.float32]


def lay_tiles(length: int, tile: int, overlap: int | None = None) -> Axis:
    """Place tiles along an axis.

    Parameters
    ----------
    length : int
        Number of pixels of the axis, as `covered_length` returns it.
    tile : int
        Side of a tile.
    overlap : int, optional
        Smallest overlap of neighbouring tiles, up to half a tile; by default an eighth of a tile, but at least 24 pixels.

    Returns
    -------
    Axis
        Tiles are spread evenly, from the first pixel to the last, on multiples of `CELL`. A tile's weight is 0 for a quarter of
        the overlap, where the edge affects the network's output, and then rises to 1 as a raised cosine. At the ends of the
        axis it is 1.

    Examples
    --------
    >>> lay_tiles(100, 40, 8).starts
    (0, 28, 60)
    """
    overlap = min(tile // 2, max(24, tile // 8)) if overlap is None else overlap
    step = max(1, (tile - overlap) // CELL)
    cells = (length - tile) // CELL
    count = 1 + -(-cells // step)
    starts = tuple(CELL * (cells * number // max(1, count - 1)) for number in range(count))
    weights = np.tile(_window(tile, overlap), (count, 1))
    weights[0, : tile // 2] = weights[-1, tile - tile // 2 :] = 1
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    weights /= np.stack([total[start : start + tile] for start in starts])
    return Axis(tile, starts, weights.astype(np.float32))


def covered_length(length: int, tile: int) -> int:
    """Return the number of pixels that tiles cover along an axis of an image: its length, or a few more.

    Examples
    --------
    >>> covered_length(101, 40), covered_length(7, 40)
    (104, 40)
    """
    return tile + max(0, -(-(length - tile) // CELL) * CELL)


def _window(tile: int, overlap: int) -> NDArray[np.float64]:
    margin = overlap // 4
    inside = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5
    return np.asarray(np.sin(np.pi / 2 * np.clip((inside - margin) / max(1, overlap - 2 * margin), 0, 1)) ** 2)


def restore_bands(apply: Apply, read: Read, rows: Axis, columns: Axis) -> Iterator[tuple[slice, Images]]:
    """Restore an image, and yield it from the top, one band of finished rows at a time.

    Parameters
    ----------
    apply : callable
        Maps tiles ``(n, rows.tile, columns.tile, C)`` to restored tiles.
    read : callable
        Returns rows of the image as float32 ``(h, W, C)``.
    rows, columns : Axis
        The tiles along the image's height and width.

    Yields
    ------
    tuple of slice and ndarray of float32
        Rows, and their restored pixels. At most two bands of a tile's height are in memory.
    """
    if len(rows.starts) == len(columns.starts) == 1:  # a single tile needs no blending
        whole = slice(0, rows.tile)
        yield whole, apply(read(whole)[None])[0]
        return
    overlap: Images | None = None
    for start, following, weight in zip(rows.starts, (*rows.starts[1:], None), rows.weights, strict=True):
        strip = _strip(apply, read(slice(start, start + rows.tile)), columns)
        strip *= weight[:, None, None]
        if overlap is not None:
            strip[: len(overlap)] += overlap
        final = rows.tile if following is None else following - start
        overlap = strip[final:].copy()
        yield slice(start, start + final), strip[:final]


def iterate_stacks(read: Read, rows: Axis, columns: Axis) -> Iterator[Images]:
    """Yield all tiles of an image, one band ``(n, rows.tile, columns.tile, C)`` at a time."""
    for start in rows.starts:
        yield _cut(read(slice(start, start + rows.tile)), columns)


def _cut(band: Images, columns: Axis) -> Images:
    return np.stack([band[:, start : start + columns.tile] for start in columns.starts])


def _strip(apply: Apply, band: Images, columns: Axis) -> Images:
    """Return a band of a tile's height, blended across its tiles."""
    strip = np.zeros_like(band)
    for start, weight, tile in zip(columns.starts, columns.weights, apply(_cut(band, columns)), strict=True):
        strip[:, start : start + columns.tile] += tile * weight[:, None]
    return strip
