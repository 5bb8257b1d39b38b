"""What a model does to images that are to stay as they are. A denoiser that changes them cannot be left to work alone."""

from __future__ import annotations

import numpy as np

from dae import corruption, metrics
from dae.inference import Denoiser
from dae.noise import Images, as_8bit
from dae.records import CleanInput, NoisySet

SAMPLE = 500
CONSTANTS = (0.0, 0.25, 0.5, 0.75, 1.0)
BORDER = 2
"""Pixels from the edge of an image in which a convolution lacks neighbours."""


def measure(denoise: Denoiser, noisy: NoisySet) -> CleanInput:
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
    damaged, clean, _ = corruption.read_block(noisy, rows)
    changed = np.square(denoise(clean) - clean, dtype=np.float64)
    inner = changed[:, BORDER:-BORDER, BORDER:-BORDER]
    own = as_8bit(denoise(damaged))
    return CleanInput(
        images=float(changed.mean()),
        borders=float((changed.sum() - inner.sum()) / (changed.size - inner.size)),
        constants=max(_change(denoise, np.full_like(clean[:1], value)) for value in CONSTANTS),
        bars=max(_change_of_bars(denoise, damaged, value) for value in (0.0, 1.0)),
        own_output=_change(denoise, own),
    )


def _change(denoise: Denoiser, images: Images) -> float:
    return float(metrics.mse(denoise(images), images).mean())


def _change_of_bars(denoise: Denoiser, damaged: Images, value: float) -> float:
    """Return the change of bars of one value that cover the upper and the lower quarter of noisy images, as in a letterbox."""
    height = damaged.shape[1] // 4
    framed = damaged.copy()
    bars = np.zeros(framed.shape[1], bool)
    bars[:height] = bars[-height:] = True
    framed[:, bars] = value
    return float(np.square(denoise(framed)[:, bars] - value, dtype=np.float64).mean())
