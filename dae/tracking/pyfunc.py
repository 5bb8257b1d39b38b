"""What a stored model answers: arrays or image files in, restored ones out, and a plain refusal of anything else.

`dae.tracking.log_model` puts a copy of this file into every model. MLflow's scoring server runs it from there, in an
environment without this package, so it imports nothing of it.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import logging
import math
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from numpy.typing import NDArray

MIN_SIDE = 8
"""Least height and width of an image; a last axis of 1 or 3 can therefore only be channels."""
CHANNELS = (1, 3)
MAX_INTENSITY = 32.0
"""Noise may leave [0, 1], but what goes beyond this is on another scale, such as 0 to 255."""
BATCH, BATCH_PIXELS = 256, 2**20
SCANS = 100
"""Most scans of a JPEG file, as libtiff has it: one of two bytes more takes as long to decode as a whole image."""
FORMS = "an array of numbers, an image file in base64, or a list of such files"
LIMITS = {"DAE_MAX_IMAGES": 1024, "DAE_MAX_IMAGE_PIXELS": 2**22, "DAE_MAX_REQUEST_PIXELS": 2**23}
JSON_NAMES = {str: "text", bool: "true or false", dict: "an object", int: "a number", float: "a number"}
logger = logging.getLogger(__name__)


class ScoringError(MlflowException):
    """A request that is refused, or a model that failed; the message is all that a client is told."""

    def __init__(self, message: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(message, error_code=error_code)

    @property
    def message(self) -> str:
        """The message. It keeps its first value: MLflow's server would put the whole of the request before it."""
        return self._message

    @message.setter
    def message(self, text: str) -> None:
        self._message: str = getattr(self, "_message", text)

    def serialize_as_json(self) -> str:
        """Return the body of the answer."""
        return json.dumps({"error_code": self.error_code, "message": self.message})


def limits() -> dict[str, int]:
    """Return how much one request may hold: the defaults, or what environment variables of these names say.

    Raises
    ------
    ValueError
        If a variable is not a whole number from 1 up.
    """
    values = dict(LIMITS)
    for name in LIMITS:
        if text := os.environ.get(name):
            if not text.isdecimal() or not int(text):
                raise ValueError(f"{name} must be a whole number from 1 up, received {text!r}")
            values[name] = int(text)
    return values


def _load_pyfunc(path: str) -> Service:
    """Return the model stored in a folder, as MLflow asks for it."""
    if "KERAS_BACKEND" not in os.environ and "keras" not in sys.modules:
        # A model's requirements hold the backend it was trained on; Keras would look for TensorFlow in any case.
        backends = [name for name in ("tensorflow", "jax") if importlib.util.find_spec(name)]
        os.environ["KERAS_BACKEND"] = (backends or ["tensorflow"])[0]
    import keras

    warnings.filterwarnings("ignore", module=r"PIL\.")  # a client's file is refused or restored, either way in full
    return Service(keras.saving.load_model(Path(path) / "data" / "model.keras", safe_mode=True, compile=False))


class Service:
    """A model that restores what a client sends.

    Parameters
    ----------
    model : keras.Model
        Maps noisy float32 images ``(N, H, W, C)`` to restored ones.

    Raises
    ------
    ValueError
        As `limits` does.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._limits = model, limits()
        _, *self._size, self._channels = model.input_shape
        self._one_at_a_time = threading.Lock()

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Restore images; the answer has the form of the request.

        Parameters
        ----------
        model_input : ndarray, nested list of numbers, str or list of str
            Intensities on the scale of 0 to 1, unclipped, of shape ``(H, W)``, ``(H, W, C)``, ``(N, H, W)`` or
            ``(N, H, W, C)``: a last axis of 1 or 3 is channels. Or PNG, JPEG or TIFF files in base64.
        params : dict, optional
            Not used; MLflow's interface has it.

        Returns
        -------
        ndarray of float32, str or list of str
            Of the same shape, as the model gives it; or PNG files in base64, of the same size, depth and channels.

        Raises
        ------
        ScoringError
            If the input breaks a rule, which it names, or the model fails.
        """
        if isinstance(model_input, str):
            return self._restore_files([model_input])[0]
        if isinstance(model_input, list) and str in set(map(type, model_input)):
            return self._restore_files(model_input)
        array = _numbers(model_input, CHANNELS[-1] * self._limits["DAE_MAX_REQUEST_PIXELS"])
        images = _images(array)
        self._require([images.shape[1:]] * len(images))
        _require_intensities(array)
        return self._restore(images).reshape(array.shape)

    def _restore_files(self, texts: list[Any]) -> list[str]:
        if others := set(map(type, texts)) - {str}:
            raise ScoringError(f"a list of image files must hold nothing else, received {_named(others)}")
        self._require_few([(0, 0)] * len(texts))
        opened = [_open(text, f"image {number}") for number, text in enumerate(texts)]
        self._require([(image.height, image.width, len(image.getbands())) for image, _ in opened])
        pixels = [_pixels(image, data, f"image {number}") for number, (image, data) in enumerate(opened)]
        restored = [""] * len(pixels)
        for shape in dict.fromkeys(image.shape for image in pixels):
            places = [place for place, image in enumerate(pixels) if image.shape == shape]
            scaled = [pixels[place] / np.float32(np.iinfo(pixels[place].dtype).max) for place in places]
            for place, image in zip(places, self._restore(np.stack(scaled)), strict=True):
                restored[place] = _encoded(image, pixels[place].dtype)
        return restored

    def _require_few(self, sizes: Sequence[tuple[int, ...]]) -> None:
        """Refuse more or larger images ``(H, W, ...)`` than allowed."""
        pixels = [size[0] * size[1] for size in sizes]
        amounts = {
            "DAE_MAX_IMAGES": ("a request may hold {} images", len(sizes)),
            "DAE_MAX_IMAGE_PIXELS": ("an image may have {} pixels", max(pixels)),
            "DAE_MAX_REQUEST_PIXELS": ("the images of a request may have {} pixels together", sum(pixels)),
        }
        for name, (rule, count) in amounts.items():
            if count > self._limits[name]:
                raise ScoringError(f"{rule.format(self._limits[name])} ({name}), received {count}")

    def _require(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Refuse images ``(H, W, C)`` that the model cannot take."""
        self._require_few(shapes)
        for shape in dict.fromkeys(shapes):
            *size, channels = shape
            received = f"received {'x'.join(map(str, shape))}"
            if channels not in CHANNELS:
                raise ScoringError(f"images must have 1 or 3 channels, {received}")
            if min(size) < MIN_SIDE:
                raise ScoringError(f"images must be at least {MIN_SIDE} pixels high and wide, {received}")
            if any(fixed not in (None, side) for fixed, side in zip(self._size, size, strict=True)):
                raise ScoringError(f"this model takes images of {self._size[0]}x{self._size[1]}, {received}")

    def _restore(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return images ``(N, H, W, C)`` restored, with channels unlike the model's put to it one by one, or as one."""
        if images.shape[3] < self._channels:
            threefold = self._restore(np.repeat(images, self._channels, axis=3))
            return np.asarray(threefold.mean(axis=3, keepdims=True))
        if images.shape[3] > self._channels:
            planes = np.moveaxis(images, 3, 1)
            grey = self._restore(planes.reshape(-1, *images.shape[1:3], 1))
            return np.ascontiguousarray(np.moveaxis(grey.reshape(planes.shape), 1, 3))
        batch = max(1, min(BATCH, BATCH_PIXELS // math.prod(images.shape[1:3])))
        try:
            # Keras builds its function at the first call, which must not happen in two threads. Each pass uses all cores.
            with self._one_at_a_time:
                parts = [self._model.predict_on_batch(images[i : i + batch]) for i in range(0, len(images), batch)]
        except Exception as error:
            logger.exception("the model failed on images of shape %s", images.shape)
            raise ScoringError("the model failed; the log of the server says how", INTERNAL_ERROR) from error
        restored: NDArray[np.float32] = np.concatenate([np.asarray(part) for part in parts])
        if not np.isfinite(restored).all():
            raise ScoringError("the model's answer is not finite", INTERNAL_ERROR)
        return restored


def _numbers(value: Any, most: int) -> NDArray[np.floating[Any]]:
    """Return an array of floats, from one or from nested lists."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value
    if not isinstance(value, list):
        numbers = isinstance(value, np.ndarray)
        received = f"{value.dtype}: make it floats on the scale of 0 to 1" if numbers else _named({type(value)})
        raise ScoringError(f"inputs must be {FORMS}, received {received}")
    level, shape = value, [len(value)]
    while (kinds := set(map(type, level))) == {list}:
        sizes = set(map(len, level))
        shape.append(sizes.pop())
        if sizes or len(shape) > 4 or math.prod(shape) > most:
            break
        level = list(chain.from_iterable(level))
    if math.prod(shape) > most:
        raise ScoringError(f"an array may have {most} numbers, received shape {tuple(shape)}")
    if list in kinds:
        raise ScoringError("an array must have at most 4 axes, and rows of one length")
    if not kinds <= {int, float}:
        raise ScoringError(f"an array must hold numbers alone, received {_named(kinds - {int, float})}")
    try:
        return np.array(level, np.float64).reshape(shape)
    except OverflowError as error:
        raise ScoringError("intensities must be finite") from error


def _named(types: set[type]) -> str:
    return " and ".join(sorted({JSON_NAMES.get(cls, "null" if cls is type(None) else cls.__name__) for cls in types}))


def _images(array: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return an array of one image or several as ``(N, H, W, C)``."""
    if array.ndim not in (2, 3, 4) or not array.size:
        rule = "an array must have shape (H, W), (H, W, C), (N, H, W) or (N, H, W, C), none of them 0"
        raise ScoringError(f"{rule}, received {array.shape}")
    with np.errstate(over="ignore"):
        images: NDArray[np.float32] = array.astype(np.float32)
    images = images if array.ndim == 4 or (array.ndim == 3 and array.shape[-1] in CHANNELS) else images[..., None]
    return images if images.ndim == 4 else images[None]


def _require_intensities(array: NDArray[np.floating[Any]]) -> None:
    if not np.isfinite(array).all():
        raise ScoringError("intensities must be finite")
    if (most := float(np.abs(array).max())) > MAX_INTENSITY:
        rule = f"intensities must be on the scale of 0 (black) to 1 (white), with noise up to {MAX_INTENSITY:g}"
        raise ScoringError(f"{rule}, received {most:g}: divide by 255 or 65535")


def _open(text: str, name: str) -> tuple[Any, bytes]:
    """Return an image of which the header alone was read, and its file."""
    from PIL import Image

    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ScoringError(f"{name}: must be an image file in base64, and is not base64") from error
    try:
        image: Any = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF"))
        several = _has_a_second_page(image)
        turned = image.format == "TIFF" and image.getexif().get(274, 1) != 1
    except Image.DecompressionBombError as error:
        raise ScoringError(f"{name}: has more pixels than an image may have") from error
    except Exception as error:  # decoders raise whatever the damage makes them
        raise ScoringError(f"{name}: must be a PNG, JPEG or TIFF file, and is not or is damaged") from error
    if several or image.mode not in ("L", "RGB", "I;16", "I;16B") or "transparency" in image.info:
        received = "more than one page" if several else f"mode {image.mode}"
        raise ScoringError(
            f"{name}: must be one grey or RGB image of 8 or 16 bits, without transparency or palette, received {received}"
        )
    if image.format == "TIFF" and (turned or 338 in image.tag_v2):  # Pillow would turn the pixels, and drop a channel
        received = "an orientation of its own" if turned else "extra samples"
        raise ScoringError(f"{name}: must be a TIFF file stored upright, of grey or RGB alone, received {received}")
    if image.format == "JPEG" and (scans := data.count(b"\xff\xda")) > SCANS:  # each is decoded as a whole image
        raise ScoringError(f"{name}: must be a JPEG file of at most {SCANS} scans, received {scans}")
    return image, data


def _has_a_second_page(image: Any) -> bool:
    """Return whether there is another image in the file, without counting how many: a TIFF file may list thousands."""
    if image.format != "TIFF":
        return bool(getattr(image, "n_frames", 1) > 1)  # the header says so; to seek would decode
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _pixels(image: Any, data: bytes, name: str) -> NDArray[Any]:
    """Return the pixels ``(H, W, C)`` of an image as uint8 or uint16, whichever it has."""
    import imagecodecs

    tags = image.tag_v2 if image.format == "TIFF" else {}
    if max(tags.get(258, (8,))) > 8 and (image.mode == "RGB" or not tags.get(262)):
        raise ScoringError(f"{name}: TIFF of 16 bits must be grey, with black as 0; send PNG instead")
    try:
        # Pillow keeps 8 of the 16 bits of a colour image.
        deep = image.format == "PNG" and image.mode == "RGB" and data[24] == 16
        pixels = imagecodecs.png_decode(data) if deep else np.asarray(image)
    except Exception as error:
        raise ScoringError(f"{name}: is damaged") from error
    kind = np.uint8 if pixels.dtype == np.uint8 else np.uint16
    return pixels.astype(kind).reshape(image.height, image.width, -1)


def _encoded(image: NDArray[np.float32], kind: Any) -> str:
    """Return an image as a PNG file in base64."""
    import imagecodecs

    pixels = np.rint(np.clip(image, 0, 1) * np.float32(np.iinfo(kind).max)).astype(kind)
    return base64.b64encode(imagecodecs.png_encode(pixels[..., 0] if image.shape[2] == 1 else pixels)).decode("ascii")
