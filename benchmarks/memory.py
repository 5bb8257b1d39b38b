"""Memory: the peak of the whole flow on a data set of MNIST's size, and on one ten times as large."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import flows
from benchmarks.measure import Row

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


def measure() -> list[Row]:
    """Run the default flow on both, with a tenth of the training steps."""
    peaks = []
    for factor in (1, 10):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            train, validation, test = (count * factor for count in COUNTS)
            generate(home / "blobs.npy", train + validation + test)
            settings = [f"data.source={home / 'blobs.npy'}", f"data.validation={validation}", f"data.test={test}"]
            settings += ["train.epochs=2", "train.steps_per_epoch=120"]
            peaks.append(flows.train(home, *(part for setting in settings for part in ("--set", setting))).peak_gib)
    small, large = peaks
    what = f"peak of all processes, {10 * sum(COUNTS):,} images"
    return [Row(what, "GiB", (large,), (small,), f"{sum(COUNTS):,} images", more_is_better=False, target=0.9)]
