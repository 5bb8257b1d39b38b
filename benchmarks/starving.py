"""Training steps with the noise drawn for each and without.

"Without" repeats one batch that is already there, so that the difference is what the input pipeline costs: reading, drawing
noise, and handing over. The same for the article's network, in batches of 64, whose noise was drawn beforehand.
"""

from __future__ import annotations

from pathlib import Path

import keras

from benchmarks.measure import Row, seconds
from dae.config import loading
from dae.data import datasets, noisy_datasets
from dae.schemas import Images
from dae.training import fit

CONFIGS = Path(__file__).parents[1] / "configs"
REPEATS, STEPS = 5, 100


class SameBatch(keras.utils.PyDataset):
    """One batch, without end."""

    num_batches = None

    def __init__(self, batch: tuple[Images, Images]) -> None:
        super().__init__()
        self.batch = batch

    def __getitem__(self, index: int) -> tuple[Images, Images]:
        """Return the batch, whatever the position."""
        return self.batch


def measure() -> list[Row]:
    """Time a hundred steps of each kind in turn, several times, after the network is traced."""
    rows = []
    for name in ("default", "article"):
        config = loading.load(CONFIGS / f"{name}.yaml")
        images = datasets.ingest(config.data)
        fresh = fit.NoisyBatches(config, images, noisy_datasets.corrupt_sets(images, config.noise))
        model = fit.compile_model(config, images)
        _step(model, fresh, 3)
        timed = [(_step(model, fresh, STEPS), _step(model, SameBatch(fresh[0]), STEPS)) for _ in range(REPEATS)]
        drawn, repeated = zip(*timed, strict=True)
        what = f"{name} network, batches of {config.train.batch_size}"
        rows.append(Row(what, "ms/step", drawn, repeated, "one batch repeated", more_is_better=False))
    return rows


def _step(model: keras.Model, batches: keras.utils.PyDataset, steps: int) -> float:
    def train() -> None:
        model.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False)

    return 1000 * seconds(train) / steps
