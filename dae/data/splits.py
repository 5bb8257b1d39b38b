"""Splits: which of a source's images are held out, by a seeded draw of whole groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dae import random_streams
from dae.config.schema import DataConfig
from dae.data.arrays import DataError
from dae.data.sources import Source


def draw_splits(source: Source, config: DataConfig, groups: NDArray[np.intp]) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each split that is drawn from the training images, and of those that are left to train on.

    Parameters
    ----------
    source : Source
    config : DataConfig
    groups : ndarray of int, shape (N,)
        The group each image belongs to; a split has whole groups.

    Raises
    ------
    DataError
        If more is held out than there is, or a field does not suit the source.
    """
    wanted: dict[str, int | float] = {}
    if config.validation != "test":
        wanted["validation"] = config.validation
    if source.test is None:
        share = config.test or config.validation
        if share == "test":
            rule = "with data.validation = test, a source without test images needs data.test"
            raise DataError(config.source, rule, "none")
        if config.test_limit is not None:
            raise DataError(config.source, "data.test_limit is for a source with test images of its own", "none")
        wanted["test"] = share
    elif config.test is not None:
        raise DataError(
            config.source, "data.test is for a source without test images of its own", f"data.test = {config.test}"
        )
    drawn: dict[str, NDArray[np.intp]] = {}
    left = np.arange(len(groups))
    for name, share in wanted.items():
        drawn[name] = _hold_out(left, groups, share, config.seed, name, config.source)
        left = np.setdiff1d(left, drawn[name])
    return drawn | {"train": left}


def _hold_out(
    rows: NDArray[np.intp], groups: NDArray[np.intp], wanted: int | float, seed: int, name: str, source: str
) -> NDArray[np.intp]:
    """Draw whole groups until at least `wanted` rows are held out; at least one group must remain."""
    count = wanted if isinstance(wanted, int) else max(1, round(wanted * len(groups)))
    present = np.unique(groups[rows])
    drawn = random_streams.make_stream(seed, "split", name).permutation(present)
    sizes = np.cumsum(np.bincount(groups[rows], minlength=int(groups.max()) + 1)[drawn])
    needed = int(np.searchsorted(sizes, count)) + 1
    if needed >= len(present):
        rule = f"data.{name} = {wanted} must leave images (of other files, where they are cut) to train on"
        raise DataError(source, rule, f"{len(rows)} images to draw from")
    return rows[np.isin(groups[rows], drawn[:needed])]
