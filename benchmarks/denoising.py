"""Large images: the peak memory and the time of the default network at work on 1, 8 and 50 megapixels in colour.

Arrays of 8 bits, restored in overlapped tiles of 512 pixels as `dae denoise` does it, each in a process of its own; the
reference is the smaller image, or the same one put to the network whole. A time is that of a megapixel, without imports and the
first call. Memory is the largest resident set of the process, Keras included; image and restored image are 0.28 GiB of it at 50
megapixels.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.measure import Row

REPEATS = 3
MEGAPIXELS = (1, 8, 50)
WHOLE = 8
STAGE = """
import json, re, sys, time
from pathlib import Path
import numpy as np
from dae import runtime
runtime.import_keras()
from dae.networks.build import build_network
from dae.config.schema import ModelConfig
from dae.inference.denoiser import ImageDenoiser
from dae.networks.predict import make_denoiser

height, way = int(sys.argv[1]), sys.argv[2]
model = build_network(ModelConfig(), (28, 28, 3))
tile = np.random.default_rng(0).integers(0, 256, (512, 500, 3), np.uint8)
image = np.tile(tile, (-(-height // 512), 16, 1))[:height]
if way == "tiles":
    work = ImageDenoiser(model, "default")
    work(image[:512])
else:
    restore = make_denoiser(model, 1)
    work = lambda image: np.rint(255 * np.clip(restore(image[None] / np.float32(255)), 0, 1)).astype(np.uint8)
    work(image[:64])
started = time.perf_counter()
work(image)
taken = time.perf_counter() - started
# Not getrusage: its figure is at least what the parent held when it made this process.
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(json.dumps([taken, int(peak) / 2**20]))
"""
WIDTH = 8000


def measure() -> list[Row]:
    """Restore an image of each size in tiles, and one of them whole, in turn."""
    ways = [(size, "tiles") for size in MEGAPIXELS] + [(WHOLE, "whole")]
    costs: dict[tuple[int, str], list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        for size, way in ways:
            costs[size, way].append(_run(size, way))
    rows = []
    for (size, way), (other, than) in (((50, "tiles"), (1, "tiles")), ((WHOLE, "tiles"), (WHOLE, "whole"))):
        ours, reference = costs[size, way], costs[other, than]
        what, beside = (
            f"{size} megapixels",
            f"{other} megapixel{'s' if other > 1 else ''}{', whole' * (than == 'whole')}",
        )
        for place, (kind, unit) in enumerate((("time", "s/megapixel"), ("peak memory", "GiB"))):
            figures, base = (tuple(cost[place] for cost in each) for each in (ours, reference))
            rows.append(Row(f"{what}: {kind}", unit, figures, base, beside, more_is_better=False))
    return rows


def _run(size: int, way: str) -> tuple[float, float]:
    """Return seconds for a megapixel, and GiB."""
    command = [sys.executable, "-c", STAGE, str(size * 1_000_000 // WIDTH), way]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds / size, peak
