"""Inference: images a second in batches of 256, and the latency of one image.

The default network against the article's, each as Keras on TensorFlow runs it and as an ONNX file under ONNX Runtime. In
batches the article's network is run its own way: `model.predict(images, batch_size=256)`. A latency is the wait for one image,
handed over as an array and returned as one, by `predict_on_batch` in Keras. Both networks are untrained, which changes nothing
about speed; docs/results.md has their errors. Images are MNIST's test images with the default noise.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Row, seconds
from dae import random_streams
from dae.config.schema import DataConfig, ModelConfig, NoiseConfig
from dae.data import datasets
from dae.inference import onnx_export
from dae.networks import autoencoder, build
from dae.networks.predict import BATCH, make_denoiser
from dae.noise.kinds import corrupt
from dae.schemas import Images

REPEATS = 7
COUNT = 4 * BATCH
CALLS = 100
ARTICLE = "the article's network, in"
Run = Callable[[Images], object]


def runs() -> dict[str, Run]:
    """Return every way to restore images, by network and runtime.

    Each has a model of its own: one that meets a second batch size is compiled anew, for any number of images.
    """

    def ours() -> Any:
        return build.build_network(ModelConfig(), (28, 28, 1))

    return {
        "ours, batches": make_denoiser(ours()),
        "article, batches": functools.partial(autoencoder.build_autoencoder().predict, batch_size=BATCH, verbose=0),
        "ours": ours().predict_on_batch,
        "article": autoencoder.build_autoencoder().predict_on_batch,
        "ours, onnx": _onnx(ours()),
        "article, onnx": _onnx(autoencoder.build_autoencoder()),
    }


def _onnx(model: Any) -> Run:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        made = onnx_export.write_onnx(model, Path(folder) / "model.onnx")
        session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])

    def run(noisy: Images) -> None:
        for start in range(0, len(noisy), BATCH):
            session.run([onnx_export.OUTPUT], {onnx_export.INPUT: noisy[start : start + BATCH]})

    return run


def noisy_images() -> Images:
    """Return noisy test images of MNIST."""
    clean = np.load(datasets.ingest(DataConfig()).test.path)[:COUNT].astype(np.float32) / np.float32(255)
    return corrupt(clean, NoiseConfig().kinds, random_streams.make_stream(0, "bench"))[0]


def throughput(ways: dict[str, Run], noisy: Images) -> list[Row]:
    """Measure images a second of every way, in turn."""

    def rate(name: str) -> float:
        return len(noisy) / seconds(functools.partial(ways[name], noisy))

    names = ("ours, batches", "article, batches", "ours, onnx", "article, onnx")
    ours, article, ours_onnx, article_onnx = _alternated([functools.partial(rate, name) for name in names])
    return [
        Row("batches of 256, Keras", "images/s", ours, article, f"{ARTICLE} Keras", target=6),
        Row("batches of 256, ONNX Runtime", "images/s", ours_onnx, article, f"{ARTICLE} Keras"),
        Row("batches of 256, both in ONNX Runtime", "images/s", ours_onnx, article_onnx, f"{ARTICLE} ONNX Runtime"),
    ]


def latency(ways: dict[str, Run], noisy: Images) -> list[Row]:
    """Measure the wait for one image, of every way in turn: half of the calls, and 95 in 100, are as fast as the figures."""

    def waits(name: str) -> tuple[float, float]:
        taken = [1000 * seconds(functools.partial(ways[name], noisy[i : i + 1])) for i in range(CALLS)]
        return float(np.median(taken)), float(np.percentile(taken, 95))

    names = ("ours", "article", "ours, onnx", "article, onnx")
    figures = _alternated([functools.partial(waits, name) for name in names])
    rows = []
    for part, quantile in enumerate(("median", "95th percentile")):
        ours, article, ours_onnx, article_onnx = (tuple(pair[part] for pair in each) for each in figures)
        for what, values, reference, than in (
            ("Keras", ours, article, "Keras"),
            ("ONNX Runtime", ours_onnx, article, "Keras"),
            ("both in ONNX Runtime", ours_onnx, article_onnx, "ONNX Runtime"),
        ):
            row = Row(
                f"one image, {what}, {quantile}", "ms", values, reference, f"{ARTICLE} {than}", more_is_better=False
            )
            rows.append(row)
    return rows


def _alternated(works: list[Callable[[], Any]]) -> list[tuple[Any, ...]]:
    """Return the figures of every work, from repeats in which each has its turn."""
    return list(zip(*([work() for work in works] for _ in range(REPEATS)), strict=True))


def measure() -> list[Row]:
    """Run every way once, to warm up, then all of them in turn, several times."""
    ways, noisy = runs(), noisy_images()
    for name, run in ways.items():
        run(noisy[:1] if name in ("ours", "article") else noisy[:BATCH])
    return throughput(ways, noisy) + latency(ways, noisy)
