"""Memory: the peak of the whole flow on a data set of MNIST's size, and on one ten times as large."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import flows

COUNTS = (55_000, 5_000, 10_000)
"""Training, validation and test images, as the default run on MNIST has them."""


def generate(path: Path, count: int) -> None:
    """Write so many 28x28 images of smooth random blobs, a block at a time."""
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:28, 0:28]
    for start in range(0, count, 5000):
        centre, width = rng.uniform(6, 22, (2, 5000, 1, 1)), rng.uniform(2, 8, (5000, 1, 1))
        blob = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / width**2)
        images[start : start + 5000] = np.rint(255 * blob)
    images.flush()


def main() -> None:
    """Run the default flow on both, with a tenth of the training steps, and print the peaks side by side."""
    table = Table("images", "peak, whole flow", "peak, its own process", "seconds")
    peaks = []
    for factor in (1, 10):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            train, validation, test = (count * factor for count in COUNTS)
            generate(home / "blobs.npy", train + validation + test)
            settings = [f"data.source={home / 'blobs.npy'}", f"data.validation={validation}", f"data.test={test}"]
            settings += ["train.epochs=2", "train.steps_per_epoch=120"]
            measured = flows.train(home, *(part for setting in settings for part in ("--set", setting)))
        peaks.append(measured)
        cells = f"{measured.peak_gib:.2f} GiB", f"{measured.training_gib:.2f} GiB", f"{measured.seconds:.0f}"
        table.add_row(f"{sum(COUNTS) * factor:,}", *cells)
    table.add_row(
        "ratio",
        *(
            f"{b / a:.2f}"
            for a, b in [(peaks[0].peak_gib, peaks[1].peak_gib), (peaks[0].training_gib, peaks[1].training_gib)]
        ),
        "",
    )
    Console(width=110).print("\nMemory of `dae train` on generated images", table)
