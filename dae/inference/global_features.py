"""Global pooling over the whole of an image that is restored in tiles.

A network that pools globally, to tell what the noise is like, would find something else in each tile, and set each to a tone
of its own. So the pooled features are averaged over all tiles first, and then given to each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dae.networks.predict import choose_batch_size
from dae.schemas import Images

Features = list[Images]


class PooledModel:
    """A network cut at its global pooling: features from tiles, and restored tiles from given features.

    Parameters
    ----------
    model : keras.Model
        Has at least one ``GlobalAveragePooling2D``.
    """

    def __init__(self, model: Any) -> None:
        import keras

        cut = keras.models.clone_model(model)  # a model that was cut can no longer be saved
        cut.set_weights(model.get_weights())
        features = [layer.output for layer in _layers(cut)]
        self._pool = keras.Model(cut.input, features)
        self._restore = keras.Model([cut.input, *features], cut.output)

    def mean(self, stacks: Iterable[Images], planes: int) -> Features:
        """Return the features of an image, averaged over all its tiles.

        Parameters
        ----------
        stacks : iterable of ndarray of float32, shape (n, H, W, C)
        planes : int
            So many tiles in a row are the channels of one place, and have features of their own.

        Returns
        -------
        list of ndarray of float32, shape (planes, F)
        """
        sums: Features = []
        count = 0
        for stack in stacks:
            found = [part.reshape(-1, planes, part.shape[1]).sum(axis=0) for part in _batched(self._pool, [stack])]
            sums = [total + part for total, part in zip(sums, found, strict=True)] if sums else found
            count += len(stack) // planes
        return [total / np.float32(count) for total in sums]

    def restore(self, tiles: Images, features: Features) -> Images:
        """Return tiles ``(n, H, W, C)`` restored under the features that `mean` found."""
        given = [np.tile(part, (len(tiles) // len(part), 1)) for part in features]
        return _batched(self._restore, [tiles, *given])[0]


def _batched(model: Any, inputs: list[Images]) -> Features:
    """Return a model's outputs, computed for so many tiles at a time as memory allows; the last are filled up to as many."""
    size = min(len(inputs[0]), choose_batch_size(inputs[0].shape[1:]))
    found = []
    for start in range(0, len(inputs[0]), size):
        parts = [values[start : start + size] for values in inputs]
        missing = size - len(parts[0])
        filled = [np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)]) for part in parts]
        made = model.predict_on_batch(filled if len(filled) > 1 else filled[0])
        found.append([np.asarray(part)[: size - missing] for part in (made if isinstance(made, list) else [made])])
    return [np.concatenate(part) for part in zip(*found, strict=True)]


def pools_globally(model: Any) -> bool:
    """Tell whether a model pools globally, so that its tiles depend on where an image is cut."""
    return bool(_layers(model))


def _layers(model: Any) -> list[Any]:
    import keras

    return [layer for layer in getattr(model, "layers", []) if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
