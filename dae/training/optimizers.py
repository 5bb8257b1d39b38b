"""Muon for convolutions: the optimizer Keras has for matrices, put to the kernels of convolutions as well."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("dae")
class Muon(keras.optimizers.Muon):  # type: ignore[misc]  # Keras has no types
    """Muon for the kernels of convolutions, Adam for all other weights.

    Momentum is replaced by the nearest orthogonal matrix, so that every direction of a kernel is learned at the same rate
    (Jordan et al., 2024). A kernel ``(h, w, in, out)`` is a matrix of ``h w in`` rows and ``out`` columns. The update has the
    size of one of Adam's (Liu et al., 2025), so that both take the same learning rate.

    The first convolution is left to Adam: it takes pixels, not features. Keras's own class takes matrices alone, which here are
    the small layers of the global vector.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        return len(variable.shape) != 4 or variable.path.startswith("stem/")

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        self.assign_add(m, ops.add(gradient, m * (self.momentum - 1)))
        direction = ops.add(gradient, self.momentum * m) if self.nesterov else m
        shape = variable.shape
        matrix = ops.reshape(direction, (-1, shape[-1]))
        update = self.lr_adjust(lr * self.zeropower_via_newtonschulz5(matrix, self.ns_steps))
        self.assign_sub(variable, ops.reshape(update, shape))
