"""Export: a stored model as an ONNX file, written only if ONNX Runtime gives what Keras gives."""

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
    """A model cannot be exported as asked; nothing was written."""


@dataclass(frozen=True)
class OnnxExport:
    """An ONNX file: its size in bytes, and the largest absolute difference from Keras over images of the shapes checked."""

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
    """Export a model that lies in MLflow or in a file.

    Parameters
    ----------
    reference : str
        A ``.keras`` file, or what `models.locate_model` takes.
    path, overwrite, tolerance
        As `write_onnx` has them.

    Raises
    ------
    ExportError
        As `write_onnx` does.
    ModelError
        If there is no such model, or it cannot be read.
    """
    _require(path, overwrite=overwrite)
    runtime.import_keras()
    from dae.tracking import models, runs

    opened = models.open_model(reference)
    if (found := opened.located) is None:
        return write_onnx(opened.model, path, overwrite=overwrite, tolerance=tolerance)
    shape = runs.read_image_shape(found.run_id)
    about = {"model": found.uri, "run_id": found.run_id, "git_commit": runs.read_git_commit(found.run_id)}
    return write_onnx(
        opened.model, path, size=shape and shape[:2], about=about, overwrite=overwrite, tolerance=tolerance
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
    """Write a Keras model as an ONNX file, whole or not at all.

    Parameters
    ----------
    model : keras.Model
        Its input ``(N, H, W, C)``; the file takes whatever number, height and width the model takes.
    path : pathlib.Path
    size : tuple of int, optional
        ``(H, W)`` of the training images, one of the sizes the outputs are compared at.
    about : mapping of str to str, optional
        Kept in the file as metadata, beside the versions it was made with and the range of its input.
    overwrite : bool
        Replace a file that is there.
    tolerance : float
        Largest absolute difference of an output from Keras's.

    Raises
    ------
    ExportError
        If a package is missing, the file is there, the model cannot be converted, or its outputs differ.
    """
    _require(path, overwrite=overwrite)
    if len(model.input_shape) != 4 or model.input_shape[-1] not in (1, 3):
        raise ExportError(f"the model must take images (N, H, W, C), C 1 or 3; this one takes {model.input_shape}")
    cases = make_test_images(_shapes(model.input_shape, size))
    with storage.atomic_write(path) as draft:
        try:
            _convert(model, draft, about or {})
            difference = _difference(model, draft, cases)
        except Exception as error:  # whatever converter or runtime choke on
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


def _shapes(taken: tuple[Any, ...], size: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    """Return the image shapes to compare at: a model's own one, or several for a model that takes any."""
    _, height, width, channels = taken
    sizes = [(height, width)] if height and width else dict.fromkeys([size or OTHER_SIZES[0], *OTHER_SIZES])
    return [(*each, channels) for each in sizes]


def make_test_images(shapes: Sequence[tuple[int, int, int]]) -> list[Images]:
    """Return batches of one image and of several, of each shape, with all the kinds of noise there are by default."""
    made = []
    for shape in shapes:
        for count in BATCHES:
            draw = random_streams.make_stream(0, "export", *shape, count)
            clean = np.clip(draw.uniform(-0.5, 1.5, (count, *shape)), 0, 1)
            made.append(corrupt((np.round(clean * 255) / 255).astype(np.float32), NoiseConfig().kinds, draw)[0])
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep TensorFlow and the converter from writing to the terminal."""
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
        # Without a signature Keras refuses a model that was loaded and not called yet.
        model.export(path, format="onnx", verbose=False, input_signature=signature, opset_version=OPSET)
    _describe(path, model, about)


def _describe(path: Path, model: Any, about: Mapping[str, str]) -> None:
    """Give the file's input, output and free dimensions names, and the file its metadata."""
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
    with _quiet():  # of being traced once for each shape
        expected = [np.asarray(model.predict_on_batch(case)) for case in cases]
    given = [session.run([OUTPUT], {INPUT: case})[0] for case in cases]
    return float(max(np.abs(ours - theirs).max() for ours, theirs in zip(given, expected, strict=True)))
