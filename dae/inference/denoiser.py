"""A model as a function of images of any size, number of channels and type."""

from __future__ import annotations

import functools
import itertools
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dae.data.arrays import ImageError, Pixels, as_stack
from dae.data.formats.base import restore_stack
from dae.inference import global_features, input_checks, tiling
from dae.inference.global_features import Features
from dae.networks import predict
from dae.noise import estimation
from dae.schemas import DomainWarning, Images, TrainingDomain

TILE = 512
SMALLEST = 8
SAMPLED = 64


class ImageDenoiser:
    """A model that restores images of any size and type.

    Images larger than a tile are restored tile by tile. If the network pools features over the whole image, as the default one
    does, the features are averaged over all tiles first. Otherwise neighbouring tiles could differ in tone.

    Parameters
    ----------
    model : keras.Model
        Maps float32 images ``(N, H, W, C)``, C 1 or 3, to images of the same shape.
    name : str
        The model's name in messages.
    trained_on : TrainingDomain, optional
        The data it was trained on. Without it no image is compared with that data.
    tile : int
        Side of the tiles that larger images are cut into, in pixels. A model of a fixed input size uses tiles of that size.
    strength : float
        Share of the restored image in the result, from 0 to 1; the rest is the noisy input.

    Raises
    ------
    ValueError
        If the model has another input or output shape, or the strength is out of range.
    """

    def __init__(
        self, model: Any, name: str, trained_on: TrainingDomain | None = None, tile: int = TILE, strength: float = 1.0
    ) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be from 0 to 1, received {strength}")
        shape = model.input_shape
        if len(shape) != 4 or shape[3] not in (1, 3) or model.output_shape[3] != shape[3]:
            raise ValueError(f"{name}: must map images (N, H, W, C), C 1 or 3, to such images; found {shape}")
        self.name = name
        self.trained_on = trained_on
        self._model = model
        self._sides: tuple[int | None, int | None] = shape[1:3]
        self._channels: int = shape[3]
        self._tile = tile // tiling.CELL * tiling.CELL
        self._strength = np.float32(strength)
        self._lock = threading.Lock()  # Keras is not thread-safe

    def __call__(self, images: Pixels) -> Pixels:
        """Restore images; warn if they are unlike the images that the model was trained on.

        Parameters
        ----------
        images : ndarray, shape (H, W), (H, W, C), (N, H, W) or (N, H, W, C)
            C is 1 (grey), 3 (RGB), 2 or 4 (with alpha, which is copied). With three axes, the last axis is channels if it has
            at most 4 elements. The full range of uint8 and uint16 stands for [0, 1]; floats are not scaled.

        Returns
        -------
        ndarray
            The same shape and type. Integers are clipped and rounded. Floats are the model's output: the default network
            restores to [0, 1], and does not change blank images.

        Raises
        ------
        TypeError
            If `images` is not an array.
        ValueError
            If the shape or type is not supported, or a value is not finite in float32, in the input or the output.

        Examples
        --------
        >>> import dae
        >>> restored = dae.load("models:/dae@champion")(images)  # doctest: +SKIP
        """
        if not isinstance(images, np.ndarray):
            raise TypeError(f"images must be a NumPy array, received {type(images).__name__}")
        try:
            stack = as_stack(images)
        except ImageError as error:
            raise ValueError(f"{error.rule}; received {error.found}") from error

        def restore(colours: Pixels) -> Pixels:
            for warning in self.find_warnings(colours):
                warnings.warn(f"images: {warning}", stacklevel=4)
            return self.restore(colours)

        try:
            return restore_stack(stack, restore).reshape(images.shape)
        except ImageError as error:
            raise ValueError(f"images: {error}") from error

    def find_warnings(self, images: Pixels) -> list[DomainWarning]:
        """Return how images ``(N, H, W, C)`` differ from the training images; an empty list if those are unknown.

        Raises
        ------
        ImageError
            If a value is not finite in float32.
        """
        _require_finite(images)
        if self.trained_on is None:
            return []
        size = self.trained_on.image_shape[:2]
        patches = len(list(estimation.iterate_patches(images[0], size)))
        rows = np.unique(np.linspace(0, len(images) - 1, max(1, SAMPLED // patches)).astype(np.intp))
        sample = [_as_float(patch) for row in rows for patch in estimation.iterate_patches(images[row], size)]
        highest = max(float(_as_float(images[row].max())) for row in rows)
        grey = all(bool((band == band[..., :1]).all()) for band in _bands(images))
        return input_checks.find_domain_warnings(sample, images.shape[1:], highest, self.trained_on, grey=grey)

    def restore(
        self, images: Pixels, rows_done: Callable[[int], None] = lambda rows: None, *, in_place: bool = False
    ) -> Pixels:
        """Restore images without alpha.

        Parameters
        ----------
        images : ndarray, shape (N, H, W, C)
            C 1 or 3, of a type that `__call__` accepts. A grey model is applied to each channel. A model of RGB gets a grey
            image as three equal channels, and the mean of its three output channels is returned.
        rows_done : callable
            Is called with the number of rows that were restored since the last call.
        in_place : bool
            Write the restored images over the noisy ones. This is safe, since no row is read again after its band is restored.

        Returns
        -------
        ndarray of the same shape and type

        Raises
        ------
        ImageError
            If a value is not finite in float32, in the input or the output.
        """
        _require_finite(images)
        sides = [
            side or max(SMALLEST, min(n, self._tile)) for n, side in zip(images.shape[1:3], self._sides, strict=True)
        ]
        lengths = [tiling.covered_length(n, side) for n, side in zip(images.shape[1:3], sides, strict=True)]
        restored = images if in_place else np.empty(images.shape, images.dtype)
        if lengths == sides:
            self._restore_whole(images, restored, (sides[0], sides[1]), rows_done)
            return restored
        rows, columns = (tiling.lay_tiles(length, side) for length, side in zip(lengths, sides, strict=True))
        for image, target in zip(images, restored, strict=True):
            read = functools.partial(_band, image, lengths[1])
            for part, band in self._restore_bands(read, rows, columns):
                target_rows = target[part]
                height, width = target_rows.shape[:2]
                target_rows[...] = self._blend(band[:height, :width], image[part])
                rows_done(height)
        return restored

    def _restore_bands(
        self, read: tiling.Read, rows: tiling.Axis, columns: tiling.Axis
    ) -> Iterator[tuple[slice, Images]]:
        """Restore an image tile by tile, with the pooled features of the whole image if the model has such."""
        apply: tiling.Apply = self._apply
        if self._pooled is not None:
            features = self._features(tiling.iterate_stacks(read, rows, columns))
            apply = functools.partial(self._apply, features=features)
        yield from tiling.restore_bands(apply, read, rows, columns)

    def _restore_whole(
        self, images: Pixels, restored: Pixels, sides: tuple[int, int], rows_done: Callable[[int], None]
    ) -> None:
        """Restore images that are no larger than a tile, in batches that fit into memory."""
        height, width = images.shape[1:3]
        size = predict.choose_batch_size((*sides, images.shape[3]))
        for block in (slice(start, start + size) for start in range(0, len(images), size)):
            whole = self._apply(_pad(_as_float(images[block]), *sides))
            restored[block] = self._blend(whole[:, :height, :width], images[block])
            rows_done(len(whole) * height)

    def _blend(self, restored: Images, noisy: Pixels) -> Pixels:
        """Return restored pixels, blended with the noisy ones by the strength, in the type of the noisy ones."""
        if self._strength == 0:
            return noisy
        if self._strength < 1:
            start = _as_float(noisy)
            restored = start + self._strength * (restored - start)
        return _as_type(restored, noisy.dtype)

    @functools.cached_property
    def _pooled(self) -> global_features.PooledModel | None:
        """The model cut at its global pooling, made for the first image larger than a tile; None without such pooling."""
        return global_features.PooledModel(self._model) if global_features.pools_globally(self._model) else None

    def _features(self, stacks: Iterator[Images]) -> Features:
        """Return the pooled features of a whole image, for each channel that the model is applied to separately."""
        assert self._pooled is not None
        first = next(stacks)
        planes = 3 if first.shape[3] > self._channels else 1
        with self._lock:
            all_stacks = itertools.chain([first], stacks)
            return self._pooled.mean((_for_channels(stack, self._channels) for stack in all_stacks), planes)

    def _apply(self, tiles: Images, features: Features | None = None) -> Images:
        """Apply the model to grey or RGB tiles, converted to the channels that it takes."""
        count, height, width, channels = tiles.shape
        restored = self._predict(_for_channels(tiles, self._channels), features)
        if channels == self._channels:
            return restored
        if channels == 3:
            return np.moveaxis(restored.reshape(count, 3, height, width), 1, 3)
        return np.asarray(restored.mean(axis=3, keepdims=True))

    def _predict(self, tiles: Images, features: Features | None) -> Images:
        with self._lock:
            if features is not None and self._pooled is not None:
                restored = self._pooled.restore(tiles, features)
            else:
                batch = min(len(tiles), predict.choose_batch_size(tiles.shape[1:]))
                restored = predict.make_denoiser(self._model, batch)(tiles)
        if not np.isfinite(restored).all():
            raise ImageError("what the model makes of an image must be finite", "NaN or infinity")
        return restored


def _for_channels(tiles: Images, channels: int) -> Images:
    """Return tiles with the channels that a model takes: colour as three grey tiles, grey as three equal channels."""
    if tiles.shape[3] > channels:
        return np.ascontiguousarray(np.moveaxis(tiles, 3, 1)).reshape(-1, *tiles.shape[1:3], 1)
    return np.repeat(tiles, channels // tiles.shape[3], axis=3) if tiles.shape[3] < channels else tiles


def _require_finite(images: Pixels) -> None:
    """Refuse floats ``(N, H, W, C)`` that are NaN, infinite, or outside the range of float32."""
    if images.dtype.kind != "f":
        return
    largest = min(float(np.finfo(images.dtype).max), float(np.finfo(np.float32).max))
    for band in _bands(images):
        if bool((np.abs(band) <= largest).all()):
            continue
        if not np.isfinite(band).all():
            raise ImageError("float pixels must be finite", "NaN or infinity")
        raise ImageError(f"float pixels must be within {largest:.3g}", f"{float(np.abs(band).max()):.3g}")


def _bands(images: Pixels) -> Iterator[Pixels]:
    """Yield images in bands of a tile's height, so that intermediate arrays stay small."""
    for image in images:
        for top in range(0, len(image), TILE):
            yield image[top : top + TILE]


def _band(image: Pixels, width: int, rows: slice) -> Images:
    return np.asarray(_pad(_as_float(image[rows])[None], rows.stop - rows.start, width)[0])


def _pad(images: Images, height: int, width: int) -> Images:
    """Return images ``(n, h, w, C)`` padded to a height and width by reflection at the bottom and the right."""
    missing = height - images.shape[1], width - images.shape[2]
    if not any(missing):
        return images
    return np.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")


def _as_float(pixels: Any) -> Images:
    if pixels.dtype.kind == "f":
        return np.asarray(pixels, np.float32)
    return np.asarray(pixels, np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def _as_type(values: Images, dtype: np.dtype[Any]) -> Pixels:
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = np.asarray(values, dtype)
        if cast.itemsize < values.itemsize and not np.isfinite(cast).all():
            raise ImageError(f"restored pixels must be within {np.finfo(dtype).max:.3g}", f"{np.abs(values).max():.3g}")
        return cast
    return np.asarray(np.rint(np.clip(values, 0, 1) * np.float32(np.iinfo(dtype).max)), dtype)
