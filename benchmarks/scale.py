"""Cost as the work grows: 7,000, 70,000 and 700,000 generated images through ingest, corrupt and evaluate.

Each stage runs in a process of its own. "Times better" compares the cost of an image with that of 7,000: 1 is flat, and
below 1 is growth; what each process does but once, such as an import, is left out. Memory is the largest resident set of
the process; without work, with Keras imported, it has the last line's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.measure import Row

COUNTS = {"train": 5_500, "validation": 500, "test": 1_000}
FACTORS = (1, 10, 100)
REPEATS = 2
Costs = dict[tuple[str, int], list[tuple[float, float]]]
STAGES = ("ingest", "corrupt", "evaluate")
STAGE = """
import json, re, sys, time
from pathlib import Path
import keras
from dae.data import noisy_datasets, datasets
from dae.evaluation import scores, metrics
from dae.networks.build import build_network
from dae.config.schema import DataConfig, ModelConfig, NoiseConfig, TrainConfig
from dae.networks.predict import make_denoiser

source, validation, test, stage = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
config = DataConfig(source=source, validation=validation, test=test)


def tell(taken):
    # Not getrusage: its figure is at least what the parent held when it made this process.
    peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
    print(json.dumps([taken, int(peak) / 2**20]))
    sys.exit()


if stage == "nothing":
    tell(0)
started = time.perf_counter()
images = datasets.ingest(config)
if stage != "ingest":
    noisy_datasets.draw_fresh(images.train, slice(64), NoiseConfig(), TrainConfig(), 0, 0)
    started = time.perf_counter()
    noisy = noisy_datasets.corrupt_sets(images, NoiseConfig(training="frozen"))
if stage == "evaluate":
    denoise = make_denoiser(build_network(ModelConfig(), images.train.shape))
    damaged, clean, _ = noisy_datasets.read_block(noisy.test, slice(8))
    metrics.ssim(denoise(damaged), clean)
    started = time.perf_counter()
    scores.evaluate_model(denoise, noisy, "untrained")
tell(time.perf_counter() - started)
"""


def generate(path: Path, count: int) -> None:
    """Write so many 28x28 images of smooth random blobs, a block at a time."""
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:28, 0:28]
    for start in range(0, count, 5000):
        size = min(5000, count - start)
        centre, width = rng.uniform(6, 22, (2, size, 1, 1)), rng.uniform(2, 8, (size, 1, 1))
        blob = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / width**2)
        images[start : start + size] = np.rint(255 * blob)
    images.flush()


def measure() -> list[Row]:
    """Run every stage on every size, in turn, from nothing each time."""
    costs: Costs = defaultdict(list)
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            for factor in FACTORS:
                home = Path(folder) / str(factor)
                home.mkdir()
                generate(home / "blobs.npy", factor * sum(COUNTS.values()))
                for stage in ("nothing", *STAGES):
                    costs[stage, factor].append(_stage(home, factor, stage))
    rows = [row for stage in STAGES for factor in FACTORS[1:] for row in _rows(costs, stage, factor)]
    return [*rows, Row("peak memory, nothing done", "GiB", tuple(peak for _, peak in costs["nothing", 1]))]


def _rows(costs: Costs, stage: str, factor: int) -> list[Row]:
    handled = sum(COUNTS.values()) - (COUNTS["train"] if stage == "evaluate" else 0)
    large, small = (tuple(1e6 * taken / (n * handled) for taken, _ in costs[stage, n]) for n in (factor, 1))
    peak, least = (tuple(memory for _, memory in costs[stage, n]) for n in (factor, 1))
    what = f"{stage}, {factor} x 7,000 images"
    return [
        Row(what, "µs/image", large, small, "7,000 images", more_is_better=False),
        Row(f"{what}: peak memory", "GiB", peak, least, "7,000 images", more_is_better=False),
    ]


def _stage(home: Path, factor: int, stage: str) -> tuple[float, float]:
    arguments = [home / "blobs.npy", factor * COUNTS["validation"], factor * COUNTS["test"], stage]
    command = [sys.executable, "-c", STAGE, *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | {"DAE_HOME": str(home)}, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak
