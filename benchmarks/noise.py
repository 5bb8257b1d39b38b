"""Noise: images a second, of a loop over images as the article has it, and of this project over a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dae import corruption, data, rng
from dae.config import DataConfig, NoiseConfig
from dae.noise import corrupt

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
        clean = pixels[part[1]].astype(np.float32) / np.float32(255)
        corrupt(clean, [KINDS[kind] for kind in kinds], rng.stream(0, "bench", part[0]))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(draw, data.blocks(len(pixels), pixels.shape[1:])))


def seconds(work: Callable[[], None]) -> float:
    """Return how long a piece of work took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure the loop, one thread and the task's threads in turn, five times, and print medians and spreads."""
    pixels = np.load(data.ingest(DataConfig()).test.path)
    table = Table(
        "noise",
        "loop, images/s",
        "one thread",
        f"{corruption.WORKERS} threads",
        "ratio",
        f"ratio, {corruption.WORKERS} threads",
    )
    choices: list[tuple[str, tuple[int, ...]]] = [(kind.kind, (i,)) for i, kind in enumerate(KINDS)]
    for name, chosen in [*choices, ("equal mix", tuple(range(len(KINDS))))]:
        rows = []
        for _ in range(REPEATS):
            times = seconds(lambda: loop(pixels, tuple(LOOP[kind] for kind in chosen)))  # noqa: B023
            rows.append([times, *(seconds(lambda: batched(pixels, chosen, n)) for n in (1, corruption.WORKERS))])  # noqa: B023
        rates = [statistics.median(len(pixels) / row[column] for row in rows) for column in range(3)]
        ratios = [[row[0] / row[column] for row in rows] for column in (1, 2)]
        cells = [f"{statistics.median(r):.1f} ({min(r):.1f} to {max(r):.1f})" for r in ratios]
        table.add_row(name.replace("_", " "), *(f"{rate:,.0f}" for rate in rates), *cells)
    Console(width=110).print(f"\nNoise on {len(pixels):,} MNIST images, medians of {REPEATS} (spread)", table)
