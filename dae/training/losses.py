"""Losses of training. Whatever the loss is, epochs are compared, and the gate decides, by mean squared error.

A loss is a function of clean and restored images that returns a value for each image, or each pixel, and has a line in
`dae.extensions.LOSSES`; or a configuration names it as ``package.module:name``.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from dae.config.schema import TrainConfig
from dae.extensions import LOSSES

WINDOW = 7
"""Side of the windows of SSIM, in pixels, as in scikit-image."""
STABILITY = (0.01**2, 0.03**2)
"""The constants of SSIM for a data range of 1."""
CHARBONNIER = 1e-3
"""Error below which the Charbonnier loss is quadratic."""

mse = keras.losses.mean_squared_error
mae = keras.losses.mean_absolute_error


def charbonnier(clean: Any, restored: Any) -> Any:
    r"""Return :math:`\sqrt{(y - x)^2 + \varepsilon^2}` of each pixel: the absolute error, smooth at 0.

    Source: Charbonnier et al., "Two deterministic half-quadratic regularization algorithms for computed imaging" (1994).
    """
    return ops.sqrt(ops.square(restored - clean) + CHARBONNIER**2)


def ssim(clean: Any, restored: Any) -> Any:
    """Return the structural similarity of each image, shape ``(N,)``, as `dae.evaluation.metrics.ssim` defines it.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004).
    """
    mean_clean, mean_restored = _window_mean(clean), _window_mean(restored)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variance_clean = unbiased * (_window_mean(clean * clean) - mean_clean * mean_clean)
    variance_restored = unbiased * (_window_mean(restored * restored) - mean_restored * mean_restored)
    covariance = unbiased * (_window_mean(clean * restored) - mean_clean * mean_restored)
    first, second = STABILITY
    similarity = (2 * mean_clean * mean_restored + first) * (2 * covariance + second)
    similarity /= (mean_clean**2 + mean_restored**2 + first) * (variance_clean + variance_restored + second)
    return ops.mean(similarity, axis=(1, 2, 3))


def _window_mean(images: Any) -> Any:
    return ops.average_pool(images, WINDOW, 1, padding="valid")


@keras.saving.register_keras_serializable("dae")
class TrainingLoss(keras.losses.Loss):
    """The configured loss: an entry of `LOSSES`, or a weighted sum of it and the dissimilarity ``1 - SSIM``.

    Parameters
    ----------
    loss : str
        Name of the entry.
    ssim_weight : float
        :math:`w` in ``(1 - w) loss + w (1 - SSIM)``, in [0, 1].
    """

    def __init__(self, loss: str, ssim_weight: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.loss, self.ssim_weight = loss, ssim_weight
        self._function = LOSSES.load(loss)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each image, shape ``(N,)``."""
        values = self._function(y_true, y_pred)
        values = ops.mean(ops.reshape(values, (ops.shape(y_true)[0], -1)), axis=1)
        if self.ssim_weight == 0:
            return values
        return (1 - self.ssim_weight) * values + self.ssim_weight * (1 - ssim(y_true, y_pred))

    def get_config(self) -> dict[str, Any]:
        """Return what Keras stores of it."""
        return {**super().get_config(), "loss": self.loss, "ssim_weight": self.ssim_weight}


def make_loss(config: TrainConfig) -> Any:
    """Return the configured loss; the default one is Keras's own, by name."""
    if config.loss == "mse" and config.ssim_weight == 0:
        return "mse"
    return TrainingLoss(config.loss, config.ssim_weight)
