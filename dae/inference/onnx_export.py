"""Export: a stored model as an ONNX file, which is written only if ONNX Runtime's outputs agree with Keras's."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dae import command_lines, random_streams, runtime, storage
from dae.config.schema import NoiseConfig
from dae.noise.kinds import corrupt
from dae.schemas import Images
from dae.tracking import provenance

PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
OPSET = 18
TOLERANCE = 1e-5
BATCHES = (1, 8)
OTHER_SIZES = ((28, 28), (37, 53))
INPUT, OUTPUT = "noisy", "restored"
MIB = 2**20


class ExportError(RuntimeError):
    """A model cannot be exported; nothing was written."""


@dataclass(frozen=True)
class OnnxExport:
    """An ONNX file: its size in bytes, and the largest absolute difference from Keras on images of the checked shapes."""

    path: Path
    size: int
    opset: int
    difference: float
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        checked = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return (
            f"{self.path}: {self.size / MIB:.2f} MiB, opset {self.opset}; ONNX Runtime's outputs are within "
            f"{self.difference:.1e} of Keras's on noisy images of {checked}"
        )


def export_model(reference: str, path: Path, *, overwrite: bool = False, tolerance: float = TOLERANCE) -> OnnxExport:
    """Export a model from MLflow or from a file.

    Parameters
    ----------
    reference : str
        A ``.keras`` file, or a reference that `models.locate_model` accepts.
    path, overwrite, tolerance
        See `write_onnx`.

    Raises
    ------
    ExportError
        See `write_onnx`.
    ModelError
        If there is no such model, or it cannot be read.
    """
    _require(path, overwrite=overwrite)
    runtime.import_keras()
    from dae.tracking import models, runs

    stored = models.open_model(reference)
    if (located := stored.located) is None:
        return write_onnx(stored.model, path, overwrite=overwrite, tolerance=tolerance)
    shape = runs.read_image_shape(located.run_id)
    about = {"model": located.uri, "run_id": located.run_id, "git_commit": runs.read_git_commit(located.run_id)}
    return write_onnx(
        stored.model, path, size=shape and shape[:2], about=about, overwrite=overwrite, tolerance=tolerance
    )


def write_onnx(
    model: Any,
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    about: Mapping[str, str] | None = None,
    overwrite: bool = False,
    tolerance: float = TOLERANCE,
) -> OnnxExport:
    """Write a Keras model as an ONNX file. On an error, no file is written.

    Parameters
    ----------
    model : keras.Model
        A model with input ``(N, H, W, C)``. Dimensions that are free in the model are free in the file.
    path : pathlib.Path
    size : tuple of int, optional
        ``(H, W)`` of the training images, one of the sizes the outputs are compared at.
    about : mapping of str to str, optional
        Metadata of the file, in addition to the versions of packages and the range of the input.
    overwrite : bool
        Replace an existing file.
    tolerance : float
        Largest absolute difference of an output from Keras's.

    Raises
    ------
    ExportError
        If a package is missing, the file exists, the model cannot be converted, or the outputs differ.
    """
    _require(path, overwrite=overwrite)
    if len(model.input_shape) != 4 or model.input_shape[-1] not in (1, 3):
        raise ExportError(f"the model must take images (N, H, W, C), C 1 or 3; this one takes {model.input_shape}")
    cases = make_test_images(_shapes(model.input_shape, size))
    with storage.atomic_write(path) as draft:
        try:
            _convert(model, draft, about or {})
            difference = _difference(model, draft, cases)
        except Exception as error:  # the converter and the runtime raise many types
            raise ExportError(f"the model cannot be converted to ONNX: {type(error).__name__}: {error}") from error
        if not difference <= tolerance:  # NaN fails
            raise ExportError(
                f"outputs of ONNX Runtime must be within {tolerance:g} of Keras's; they differ by {difference:.3g}"
            )
        return OnnxExport(path, draft.stat().st_size, OPSET, difference, tuple(case.shape for case in cases))


def _require(path: Path, *, overwrite: bool) -> None:
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ExportError(
            f"export needs {' and '.join(missing)}, of the extra onnx: {command_lines.install_command('onnx')}"
        )
    if (backend_name := os.environ.get("KERAS_BACKEND", "tensorflow")) != "tensorflow":
        raise ExportError(f"export needs Keras on TensorFlow, KERAS_BACKEND is {backend_name}")
    if not os.access(path.parent, os.W_OK):
        raise ExportError(f"{path} must lie in a folder that exists and may be written to")
    if path.is_dir() or (path.exists() and not overwrite):
        raise ExportError(f"{path} must not exist yet, or be a file that --overwrite allows to be replaced")


def _shapes(input_shape: tuple[Any, ...], trained_size: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    """Return the image shapes for the comparison: the model's own shape, or several if its size is free."""
    _, height, width, channels = input_shape
    sizes = [(height, width)] if height and width else dict.fromkeys([trained_size or OTHER_SIZES[0], *OTHER_SIZES])
    return [(*size, channels) for size in sizes]


def make_test_images(shapes: Sequence[tuple[int, int, int]]) -> list[Images]:
    """Return a batch of one image and a batch of several for each shape, with the default configuration's kinds of noise."""
    batches = []
    for shape in shapes:
        for count in BATCHES:
            draw = random_streams.make_stream(0, "export", *shape, count)
            clean = np.clip(draw.uniform(-0.5, 1.5, (count, *shape)), 0, 1)
            batches.append(corrupt((np.round(clean * 255) / 255).astype(np.float32), NoiseConfig().kinds, draw)[0])
    return batches


@contextmanager
def _quiet() -> Iterator[None]:
    """Prevent TensorFlow and the converter from writing to the terminal."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx", "absl")]
    levels = [logger.level for logger in loggers]
    with runtime.silence_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _convert(model: Any, path: Path, about: Mapping[str, str]) -> None:
    import keras

    signature = [keras.InputSpec(shape=model.input_shape, dtype="float32", name=INPUT)]
    with _quiet():
        # Without a signature, Keras refuses a model that was loaded and has not been called.
        model.export(path, format="onnx", verbose=False, input_signature=signature, opset_version=OPSET)
    _describe(path, model, about)


def _describe(path: Path, model: Any, about: Mapping[str, str]) -> None:
    """Name the file's input, output and free dimensions, and add its metadata."""
    import onnx

    stored = onnx.load(path)
    (written,) = stored.graph.output
    for node in stored.graph.node:
        node.output[:] = [OUTPUT if name == written.name else name for name in node.output]
    written.name = OUTPUT
    for value in (*stored.graph.input, written):
        for name, dim, known in zip("NHW", value.type.tensor_type.shape.dim, model.input_shape, strict=False):
            if known is None:
                dim.dim_param = name
    facts = {
        "input": "float32 (N, H, W, C), noisy, unclipped, clean intensities in [0, 1]",
        "made_with": " ".join(provenance.model_requirements()),
    }
    onnx.helper.set_model_props(stored, facts | dict(about))
    onnx.checker.check_model(stored)
    onnx.save(stored, path)


def _difference(model: Any, path: Path, cases: Sequence[Images]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with _quiet():  # TensorFlow warns that it traces the model for each shape
        expected = [np.asarray(model.predict_on_batch(case)) for case in cases]
    actual = [session.run([OUTPUT], {INPUT: case})[0] for case in cases]
    return float(
        max(
            np.abs(onnx_output - keras_output).max() for onnx_output, keras_output in zip(actual, expected, strict=True)
        )
    )
