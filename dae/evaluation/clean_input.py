"""What a model does to images that are to stay as they are. A denoiser that changes them cannot be left to work alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dae.data import datasets, noisy_datasets
from dae.evaluation import metrics
from dae.evaluation.metrics import Values
from dae.networks.predict import Denoiser
from dae.noise.kinds import to_8bit
from dae.schemas import CleanInput, Images, NoisySet

SAMPLE = 500
CONSTANTS = (0.0, 0.25, 0.5, 0.75, 1.0)
BORDER = 2
"""Pixels from the edge of an image in which a convolution lacks neighbours."""


def measure_clean_input(denoise: Denoiser, noisy: NoisySet) -> CleanInput:
    """Measure how much a model changes what holds no noise.

    Parameters
    ----------
    denoise : callable
        Noisy images in, restored images out.
    noisy : NoisySet
        Up to 500 of its images, evenly spread, are used.

    Returns
    -------
    CleanInput
        Mean squared changes, in squared intensity.
    """
    rows = np.unique(np.linspace(0, noisy.clean.count - 1, SAMPLE).astype(np.intp))
    parts = [
        _measure_block(denoise, noisy, rows[part]) for _, part in datasets.iterate_blocks(len(rows), noisy.clean.shape)
    ]
    images, borders, bars, own = np.sum(parts, axis=0) / len(rows)
    blank = np.zeros((1, *noisy.clean.shape), np.float32)
    constants = [_change(denoise, blank + np.float32(value)).mean() for value in CONSTANTS]
    return CleanInput(
        images=float(images),
        borders=float(borders),
        constants=float(np.max(constants)),  # NaN if one is
        bars=float(bars),
        own_output=float(own),
    )


def _measure_block(denoise: Denoiser, noisy: NoisySet, rows: NDArray[np.intp]) -> Values:
    """Return the sums over some images of the changes of clean ones, their borders, bars, and the model's own output."""
    damaged, clean, _ = noisy_datasets.read_block(noisy, rows)
    changed = np.square(denoise(clean) - clean, dtype=np.float64)
    frame = np.ones(clean.shape[1:3], bool)
    frame[BORDER:-BORDER, BORDER:-BORDER] = False
    bars = np.max([_change_of_bars(denoise, damaged, value) for value in (0.0, 1.0)], axis=0)
    own = _change(denoise, to_8bit(denoise(damaged)))
    return np.array(
        [changed.mean(axis=(1, 2, 3)).sum(), changed[:, frame].mean(axis=(1, 2)).sum(), bars.sum(), own.sum()]
    )


def _change(denoise: Denoiser, images: Images) -> Values:
    return metrics.mse(denoise(images), images)


def _change_of_bars(denoise: Denoiser, damaged: Images, value: float) -> Values:
    """Return the change of bars of one value that cover the upper and the lower quarter of noisy images, as in a letterbox."""
    height = damaged.shape[1] // 4
    framed = damaged.copy()
    bars = np.zeros(framed.shape[1], bool)
    bars[:height] = bars[-height:] = True
    framed[:, bars] = value
    return np.asarray(np.square(denoise(framed)[:, bars] - value, dtype=np.float64).mean(axis=(1, 2, 3)))
