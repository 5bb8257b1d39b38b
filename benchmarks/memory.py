"""Memory: the peak of the whole flow on a data set of MNIST's size, and on one ten times as large."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import flows
from benchmarks.measure import Row
from benchmarks.scale import generate

COUNTS = (55_000, 5_000, 10_000)
"""Training, validation and test images, as the default run on MNIST has them."""


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
