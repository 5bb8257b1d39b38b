"""Time to a validation MSE of 0.0069, from the start of training, evaluation left out on both sides.

The reference is the article's network in the article's loop: batches of 64 with their noise drawn once, Adam at its
defaults, epoch after epoch until the mean squared error over its 10,000 validation images is at most 0.0069. This project
trains the default network for a schedule that ends just below it, on fresh noise, and is scored on the same noisy images.
Both sides include what Keras does at the first step (tracing the network), which is the larger part of what is left; the
line after says how much. The article's side is trained once, with one seed, and no longer than 160 times what this project
took: it needs 18 to 30 epochs, most of half an hour.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.measure import Row, seconds
from dae.config import loading
from dae.config.schema import PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.schemas import NoisySet
from dae.training import fit

CONFIGS = Path(__file__).parents[1] / "configs"
TARGET = 0.0069
SEEDS = 5
ENOUGH = 160
QUICK = ["train.epochs=1", "train.steps_per_epoch=110", "train.learning_rate=0.009", "train.warmup_steps=40"]
# It is scored on the article's noise, so that is what it is trained on.
QUICK += ["train.batch_size=32", "train.clean_share=0", "train.page_share=0", "noise.file_share=0"]


def measure() -> list[Row]:
    """Train the default network with five seeds and the article's with one."""
    article = loading.load(CONFIGS / "article.yaml")
    judged = noisy_datasets.corrupt_sets(datasets.ingest(article.data), article.noise).validation
    quick = [_quick(loading.load(None, [*QUICK, f"train.seed={seed}"]), judged) for seed in range(SEEDS)]
    whole, first, errors = zip(*quick, strict=True)
    taken, ending = _article(article, judged, ENOUGH * statistics.median(whole))
    return [
        Row(
            f"time to {TARGET}",
            "s",
            whole,
            (taken,),
            f"the article's model, {ending}",
            more_is_better=False,
            target=150,
        ),
        Row("of that, until the first step is done", "s", first),
        Row("validation MSE then", "", errors),
    ]


def _quick(config: PipelineConfig, judged: NoisySet) -> tuple[float, float, float]:
    images = datasets.ingest(config.data)
    noisy = noisy_datasets.corrupt_sets(images, config.noise)

    def train(steps: int) -> None:
        model.fit(batches, steps_per_epoch=steps, initial_epoch=0, epochs=1, verbose=0, shuffle=False)

    batches = fit.NoisyBatches(config, images, noisy)
    model = fit.compile_model(config, images)
    first = seconds(lambda: train(1))
    model = fit.compile_model(config, images)
    taken = seconds(lambda: train(batches.steps))
    error = fit.compute_validation_mse(model, judged)
    if error > TARGET:
        raise SystemExit(f"seed {config.train.seed}: validation MSE {error:.5f} after {batches.steps} steps")
    return taken, first, error


def _article(config: PipelineConfig, judged: NoisySet, most: float) -> tuple[float, str]:
    images = datasets.ingest(config.data)
    batches = fit.NoisyBatches(config, images, noisy_datasets.corrupt_sets(images, config.noise))
    model = fit.compile_model(config, images)
    taken, error, epoch = 0.0, float("inf"), 0
    while error > TARGET and taken < most:
        batches.first_epoch = epoch
        taken += seconds(lambda: model.fit(batches, steps_per_epoch=batches.steps, epochs=1, verbose=0, shuffle=False))
        error = fit.compute_validation_mse(model, judged)
        epoch += 1
        print(f"the article's model, epoch {epoch}: {error:.5f} after {taken:.0f} s", flush=True)
    return taken, f"{epoch} epochs" if error <= TARGET else f"still at {error:.5f} after {epoch} epochs"
