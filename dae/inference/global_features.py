"""Global pooling over a whole image that is restored in tiles.

A network with global pooling estimates the noise from the pooled features. These would differ from tile to tile, and so would
the tone. Therefore the features are averaged over all tiles first, and then used for every tile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dae.networks.predict import choose_batch_size
from dae.schemas import Images

Features = list[Images]


class PooledModel:
    """A network cut at its global pooling: it computes features from tiles, and restored tiles from features.

    Parameters
    ----------
    model : keras.Model
        A model with at least one ``GlobalAveragePooling2D``.
    """

    def __init__(self, model: Any) -> None:
        import keras

        cut = keras.models.clone_model(model)  # a model that is cut can no longer be saved
        cut.set_weights(model.get_weights())
        features = [layer.output for layer in _pooling_layers(cut)]
        self._pool = keras.Model(cut.input, features)
        self._restore = keras.Model([cut.input, *features], cut.output)

    def mean(self, stacks: Iterable[Images], planes: int) -> Features:
        """Return the features of an image, averaged over all its tiles.

        Parameters
        ----------
        stacks : iterable of ndarray of float32, shape (n, H, W, C)
        planes : int
            Number of consecutive tiles that are the channels of one position; each channel has its own features.

        Returns
        -------
        list of ndarray of float32, shape (planes, F)
        """
        sums: Features = []
        count = 0
        for stack in stacks:
            parts = [part.reshape(-1, planes, part.shape[1]).sum(axis=0) for part in _batched(self._pool, [stack])]
            sums = [total + part for total, part in zip(sums, parts, strict=True)] if sums else parts
            count += len(stack) // planes
        return [total / np.float32(count) for total in sums]

    def restore(self, tiles: Images, features: Features) -> Images:
        """Return tiles ``(n, H, W, C)`` restored with the features that `mean` returned."""
        repeated = [np.tile(part, (len(tiles) // len(part), 1)) for part in features]
        return _batched(self._restore, [tiles, *repeated])[0]


def _batched(model: Any, inputs: list[Images]) -> Features:
    """Return a model's outputs, computed in batches that fit into memory. All have one size: the last is filled with zeros."""
    size = min(len(inputs[0]), choose_batch_size(inputs[0].shape[1:]))
    batches = []
    for start in range(0, len(inputs[0]), size):
        parts = [values[start : start + size] for values in inputs]
        missing = size - len(parts[0])
        filled = [np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)]) for part in parts]
        outputs = model.predict_on_batch(filled if len(filled) > 1 else filled[0])
        outputs = outputs if isinstance(outputs, list) else [outputs]
        batches.append([np.asarray(output)[: size - missing] for output in outputs])
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def pools_globally(model: Any) -> bool:
    """Tell whether a model has global pooling, so that its tiles depend on where an image is cut."""
    return bool(_pooling_layers(model))


def _pooling_layers(model: Any) -> list[Any]:
    import keras

    return [layer for layer in getattr(model, "layers", []) if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
