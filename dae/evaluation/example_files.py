"""Noisy image files of a run's test set, for its model to be seen at work on what a person has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dae import storage
from dae.config.schema import PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.noise.kinds import to_8bit
from dae.schemas import EIGHT_BIT, Images, NoisySet

ROWS, COLUMNS = 4, 6
LARGEST = 400
"""Pixels a side of a file, beyond the first image in it."""


def write_noisy_examples(config: PipelineConfig, folder: Path) -> list[Path]:
    """Write a PNG file for each kind of noise: images of the test set with that noise, side by side.

    Parameters
    ----------
    config : PipelineConfig
        Of the run, whose images and frozen noise are found in the cache, or made again.
    folder : Path
        Where they go, under the names of the kinds; what is there by those names is replaced.

    Returns
    -------
    list of Path
        Those files, for kinds that some image got.

    Raises
    ------
    DataError
        If the images can no longer be read.
    OSError
        If the folder cannot be written to.
    """
    noisy = noisy_datasets.corrupt_sets(datasets.ingest(config.data), config.noise).test
    drawn = np.load(noisy.kinds_path)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in dict.fromkeys(kind.removesuffix(EIGHT_BIT) for kind in noisy.kinds):
        of_kind = [index for index, name in enumerate(noisy.kinds) if name.removesuffix(EIGHT_BIT) == kind]
        rows = np.flatnonzero(np.isin(drawn, of_kind))
        if len(rows):
            written.append(folder / f"{kind}.png")
            with storage.atomic_write(written[-1]) as draft:
                Image.fromarray(_page(noisy, rows)).save(draft, format="PNG")
    return written


def _page(noisy: NoisySet, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return the first of some images side by side, ``(H, W)`` or ``(H, W, 3)``: whole rows, of images that are not large."""
    height, width = noisy.clean.shape[:2]
    columns = min(COLUMNS, max(1, LARGEST // width), len(rows))
    count = min(ROWS, max(1, LARGEST // height), len(rows) // columns)
    damaged: Images = noisy_datasets.read_block(noisy, rows[: count * columns])[0]
    lines = to_8bit(damaged).reshape(count, columns, *damaged.shape[1:])
    page = np.concatenate([np.concatenate(list(line), axis=1) for line in lines], axis=0)
    pixels = np.rint(page * 255).astype(np.uint8)
    return np.asarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
