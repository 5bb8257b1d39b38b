"""Splits: a seeded draw of whole groups decides which images of a source are held out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dae import random_streams
from dae.config.schema import DataConfig
from dae.data.arrays import DataError
from dae.data.sources import Source


def draw_splits(source: Source, config: DataConfig, groups: NDArray[np.intp]) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each split that is drawn from the training images, and the remaining rows as ``train``.

    Parameters
    ----------
    source : Source
    config : DataConfig
    groups : ndarray of int, shape (N,)
        Number of each image's group; a split holds whole groups.

    Raises
    ------
    DataError
        If more images are held out than there are, or a field does not fit the source.
    """
    shares: dict[str, int | float] = {}
    if config.validation != "test":
        shares["validation"] = config.validation
    if source.test is None:
        share = config.test or config.validation
        if share == "test":
            rule = "with data.validation = test, a source without test images needs data.test"
            raise DataError(config.source, rule, "none")
        if config.test_limit is not None:
            raise DataError(config.source, "data.test_limit is for a source with test images of its own", "none")
        shares["test"] = share
    elif config.test is not None:
        raise DataError(
            config.source, "data.test is for a source without test images of its own", f"data.test = {config.test}"
        )
    splits: dict[str, NDArray[np.intp]] = {}
    train = np.arange(len(groups))
    for name, share in shares.items():
        splits[name] = _hold_out(train, groups, share, config.seed, name, config.source)
        train = np.setdiff1d(train, splits[name])
    return splits | {"train": train}


def _hold_out(
    rows: NDArray[np.intp], groups: NDArray[np.intp], share: int | float, seed: int, name: str, source: str
) -> NDArray[np.intp]:
    """Draw whole groups until a share (or a number) of the rows is held out; at least one group must remain."""
    count = share if isinstance(share, int) else max(1, round(share * len(groups)))
    present = np.unique(groups[rows])
    order = random_streams.make_stream(seed, "split", name).permutation(present)
    sizes = np.cumsum(np.bincount(groups[rows], minlength=int(groups.max()) + 1)[order])
    needed = int(np.searchsorted(sizes, count)) + 1
    if needed >= len(present):
        rule = f"data.{name} = {share} must leave images (of other files, where they are cut) to train on"
        raise DataError(source, rule, f"{len(rows)} images to draw from")
    return rows[np.isin(groups[rows], order[:needed])]
