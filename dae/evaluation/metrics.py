"""Metrics of restored images: one value for each image, float64, in scikit-image's definitions with a data range of 1.

A metric is a function of restored and clean images that has a line in `dae.extensions.METRICS`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dae.extensions import METRICS
from dae.schemas import Images, Quality, make_quality

Values = NDArray[np.float64]
MSE_FLOOR = 1e-10
"""PSNR is taken of at least this error, 100 dB: a perfect image would make every mean infinite."""


def mse(restored: Images, clean: Images) -> Values:
    """Return the mean squared error of each image.

    Parameters
    ----------
    restored, clean : ndarray of float32, shape (N, H, W, C)

    Returns
    -------
    ndarray of float64, shape (N,)

    Examples
    --------
    >>> mse(np.zeros((2, 8, 8, 1), np.float32), np.full((2, 8, 8, 1), 0.5, np.float32)).tolist()
    [0.25, 0.25]
    """
    difference = restored.astype(np.float64) - clean
    return np.asarray(np.mean(np.square(difference, out=difference), axis=(1, 2, 3)))


def psnr(restored: Images, clean: Images) -> Values:
    """Return the peak signal-to-noise ratio of each image in decibels, at most 100 dB.

    Parameters
    ----------
    restored, clean : ndarray of float32, shape (N, H, W, C)

    Returns
    -------
    ndarray of float64, shape (N,)
    """
    return psnr_of_mse(mse(restored, clean))


def psnr_of_mse(errors: Values) -> Values:
    """Return the peak signal-to-noise ratio in decibels for each mean squared error, at most 100 dB.

    Examples
    --------
    >>> psnr_of_mse(np.array([0.01, 0.0])).round(6).tolist()
    [20.0, 100.0]
    """
    return -10.0 * np.log10(np.maximum(errors, MSE_FLOOR))


def ssim(restored: Images, clean: Images) -> Values:
    """Return the structural similarity of each image, the mean over its 7x7 windows and its channels.

    Parameters
    ----------
    restored, clean : ndarray of float32, shape (N, H, W, C), H and W at least 7

    Returns
    -------
    ndarray of float64, shape (N,)

    Notes
    -----
    Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), as
    ``skimage.metrics.structural_similarity`` computes it.
    """
    from skimage.metrics import structural_similarity

    pairs = zip(restored, clean, strict=True)
    return np.array([structural_similarity(*pair, data_range=1.0, channel_axis=-1) for pair in pairs], np.float64)


def compute_all(restored: Images, clean: Images) -> dict[str, Values]:
    """Return the values of every metric for each image, by the metric's name."""
    return {name: metric(restored, clean) for name, metric in METRICS.items()}


def mean_quality(values: Mapping[str, Values]) -> Quality:
    """Return the means over a group of images; all NaN for an empty group."""
    count = len(values["mse"])
    return make_quality({name: float(group.mean()) if count else np.nan for name, group in values.items()}, count)
