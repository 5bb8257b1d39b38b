"""The training domain: what a model was trained on, measured on its frozen noisy images and stored with it."""

from __future__ import annotations

from itertools import compress

import numpy as np

from dae.data import noisy_datasets
from dae.noise.estimation import PERCENTILES, estimate_level, iterate_patches
from dae.schemas import EIGHT_BIT, NoisySet, TrainingDomain

SAMPLE = 256


def measure_training_domain(noisy: NoisySet, *, windows: bool | None = None) -> TrainingDomain:
    """Return what a model is trained on, measured on up to 256 images, evenly spread, of its frozen validation set.

    Parameters
    ----------
    noisy : NoisySet
    windows : bool, optional
        Whether training images are windows of larger ones.

    Returns
    -------
    TrainingDomain
        Noise and brightness from the 1st to the 99th percentile of the images; the intensities of the clean ones.
    """
    levels, means, within, low, high = [], [], [], np.inf, -np.inf
    size = noisy.clean.shape[:2]
    for row in np.unique(np.linspace(0, noisy.clean.count - 1, SAMPLE).astype(np.intp)):
        damaged, clean, _ = noisy_datasets.read_block(noisy, slice(row, row + 1))
        levels.append(estimate_level([patch.astype(np.float32) for patch in iterate_patches(damaged[0], size)]))
        means.append(float(damaged.mean()))
        low, high = min(low, float(clean.min())), max(high, float(clean.max()))
        within.append(bool(damaged.min() >= 0 and damaged.max() <= 1))
    in_files = any(kind.endswith(EIGHT_BIT) for kind in noisy.kinds)
    return TrainingDomain(
        image_shape=noisy.clean.shape,
        noise_sigma=_percentile_range(levels),
        intensity=(low, high),
        unclipped=not all(within) and not in_files,
        windows=windows,
        brightness=_percentile_range(means),
        noise_sigma_within=_percentile_range(list(compress(levels, within))) if in_files and any(within) else None,
    )


def _percentile_range(values: list[float]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    return low, high
