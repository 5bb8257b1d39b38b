"""Noise: images a second, of the article's loop over images, and of this project a block of images at a time.

Twenty times would leave 1.4 µs for an image of 784 pixels. On one core the random bits and the logarithm, root, sine and
cosine of its normal values alone take longer, in NumPy's vector functions; the rest is finding the pixels that are not
black, looking Poisson values up in tables, and moving images. A training step of 32 images needs 0.15 ms of it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Row, seconds
from dae import random_streams
from dae.config.schema import DataConfig, NoiseConfig
from dae.data import datasets, noisy_datasets
from dae.noise.kinds import corrupt

REPEATS = 5
Image = NDArray[np.float64]
KINDS = NoiseConfig().kinds


def gaussian(image: Image) -> Image:
    """One image of the article's loop: additive noise of variance 0.1."""
    return image + np.random.normal(0, 0.1**0.5, image.shape)  # noqa: NPY002  (the article's generator)


def salt_and_pepper(image: Image) -> Image:
    """One image of the article's loop, its positions drawn over the whole image."""
    noisy = np.copy(image)
    for value, share in ((1, 0.9), (0, 0.1)):
        drawn = int(np.ceil(0.1 * image.size * share))
        noisy[tuple(np.random.randint(0, side, drawn) for side in image.shape)] = value  # noqa: NPY002
    return noisy


def poisson(image: Image) -> Image:
    """One image of the article's loop: the peak from the number of grey levels."""
    peak = 2 ** np.ceil(np.log2(len(np.unique(image))))
    return np.asarray(np.random.poisson(image * peak) / float(peak))  # noqa: NPY002


def speckle(image: Image) -> Image:
    """One image of the article's loop: multiplicative noise of variance 1."""
    return image + image * np.random.randn(*image.shape)  # noqa: NPY002


LOOP = (gaussian, salt_and_pepper, poisson, speckle)


def loop(pixels: NDArray[np.uint8], kinds: tuple[Callable[[Image], Image], ...]) -> None:
    """Corrupt image after image, each with a kind drawn at random."""
    for image in pixels[..., 0]:
        kinds[np.random.randint(len(kinds))](image / 255)  # noqa: NPY002


def batched(pixels: NDArray[np.uint8], kinds: tuple[int, ...], workers: int) -> None:
    """Corrupt a block at a time, on so many threads, as the task corrupt does."""

    def draw(part: tuple[int, slice]) -> None:
        clean = pixels[part[1]].astype(np.float32)
        clean /= np.float32(255)
        corrupt(clean, [KINDS[kind] for kind in kinds], random_streams.make_stream(0, "bench", part[0]))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(draw, datasets.iterate_blocks(len(pixels), pixels.shape[1:])))


def measure() -> list[Row]:
    """Measure the loop, one thread and the task's threads in turn, several times."""
    pixels = np.load(datasets.ingest(DataConfig()).test.path)
    choices: list[tuple[str, tuple[int, ...]]] = [(kind.kind, (i,)) for i, kind in enumerate(KINDS)]
    rows = []
    for name, chosen in [*choices, ("equal mix", tuple(range(len(KINDS))))]:
        works = (
            partial(loop, pixels, tuple(LOOP[kind] for kind in chosen)),
            *(partial(batched, pixels, chosen, workers) for workers in (1, noisy_datasets.WORKERS)),
        )
        looped, *drawn = zip(*([len(pixels) / seconds(work) for work in works] for _ in range(REPEATS)), strict=True)
        for threads, rates in zip(("one thread", f"{noisy_datasets.WORKERS} threads"), drawn, strict=True):
            target = 20 if (name, threads) == ("equal mix", "one thread") else None
            what = f"{name.replace('_', ' ')}, {threads}"
            rows.append(Row(what, "images/s", rates, looped, "the article's loop", target=target))
    return rows
