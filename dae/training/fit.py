"""The fit loop: batches of fresh or frozen noise, validation, the best epoch, and resumption after the last finished epoch."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dae.config.schema import PipelineConfig, TrainConfig
from dae.data import noisy_datasets
from dae.data.arrays import images_per_block
from dae.evaluation import scores
from dae.networks import build
from dae.networks.predict import make_denoiser
from dae.schemas import Images, ImageSets, NoisySet, NoisySets
from dae.tracking import provenance
from dae.training.checkpoint import Checkpoint, History
from dae.training.losses import make_loss
from dae.training.optimizers import Muon

logger = logging.getLogger(__name__)

Report = Callable[[int, Mapping[str, float]], None]


class TrainingDivergedError(RuntimeError):
    """The loss or the validation MSE is no longer a finite number."""


class NoisyBatches(keras.utils.PyDataset):
    """Endless training batches ``(noisy, clean)``. Batch `i` depends on `i` alone, so training can start at any epoch.

    Parameters
    ----------
    config : PipelineConfig
    images : ImageSets
    noisy : NoisySets
    first_epoch : int
        The epoch, counted from 0, that the first batch belongs to.
    """

    num_batches = None

    def __init__(self, config: PipelineConfig, images: ImageSets, noisy: NoisySets, first_epoch: int = 0) -> None:
        super().__init__()
        self.config, self.images, self.frozen, self.first_epoch = config, images.train, noisy.train, first_epoch
        self.steps = steps_per_epoch(config.train, images.train.count)
        self.steps_per_pass = steps_per_pass(config.train, images.train.count)
        self.block_size = images_per_block(images.train.shape)
        self._order: tuple[int, list[Any]] = (-1, [])
        self._blocks: dict[tuple[int, int], tuple[Images, Images]] = {}

    def __getitem__(self, index: int) -> tuple[Images, Images]:
        """Return the batch at a position counted from the first epoch on, float32 ``(n, H, W, C)`` each."""
        lap, step = divmod(index + self.first_epoch * self.steps, self.steps_per_pass)
        start = step * self.config.train.batch_size
        stop = min(start + self.config.train.batch_size, self.images.count)
        pieces = []
        while start < stop:
            block, offset = divmod(start, self.block_size)
            end = min(offset + stop - start, self.block_size)
            pieces.append([images[offset:end] for images in self._block(lap, block)])
            start += end - offset
        noisy, clean = (np.concatenate(part) if len(part) > 1 else part[0] for part in zip(*pieces, strict=True))
        return noisy, clean

    def _block(self, lap: int, block: int) -> tuple[Images, Images]:
        if (lap, block) not in self._blocks:
            if self._order[0] != lap:
                self._order = (lap, list(noisy_datasets.iterate_shuffled(self.images, self.config.train.seed, lap)))
            rows = self._order[1][block]
            if len(self._blocks) > self.config.train.batch_size // self.block_size + 1:  # batches come in order
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[lap, block] = self._draw(lap, block, rows)
        return self._blocks[lap, block]

    def _draw(self, lap: int, block: int, rows: Any) -> tuple[Images, Images]:
        if self.frozen is not None:
            return noisy_datasets.read_block(self.frozen, rows)[:2]
        train = self.config.train
        if self.config.data.patch is not None:  # a patch is a window of a page already
            train = train.model_copy(update={"page_share": 0.0})
        return noisy_datasets.draw_fresh(self.images, rows, self.config.noise, train, lap, block)


def steps_per_pass(config: TrainConfig, count: int) -> int:
    """Return the number of batches in one pass over `count` images, at least 1."""
    return max(1, count // config.batch_size) if config.drop_last else -(-count // config.batch_size)


def steps_per_epoch(config: TrainConfig, count: int) -> int:
    """Return the number of batches from one validation to the next."""
    return config.steps_per_epoch or steps_per_pass(config, count)


def compile_model(config: PipelineConfig, images: ImageSets) -> keras.Model:
    """Return the configured network with its loss, optimizer and schedule, its weights drawn from the training seed."""
    keras.utils.set_random_seed(config.train.seed)
    model = build.build_network(config.model, images.train.shape, config.train.precision, config.train.seed)
    rate = _learning_rate(config.train, config.train.epochs * steps_per_epoch(config.train, images.train.count))
    optimizer = _optimizer(config.train, rate)
    if config.train.precision == "mixed_float16":  # here, since Keras's own wrapper is not saved with the model
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    # On JAX, Keras would otherwise run each operation on its own.
    jit_compile = config.train.jit_compile or keras.config.backend() == "jax"
    model.compile(optimizer, loss=make_loss(config.train), jit_compile=jit_compile, auto_scale_loss=False)
    # Else TensorFlow traces the first step twice, to find new variables in it.
    optimizer.build(model.trainable_variables)
    return model


def _optimizer(config: TrainConfig, rate: Any) -> Any:
    if config.optimizer == "adam":
        return keras.optimizers.Adam(rate, beta_2=config.beta_2)
    return Muon(rate, adam_beta_2=config.beta_2, weight_decay=None, adam_weight_decay=None)


def _learning_rate(config: TrainConfig, steps: int) -> Any:
    if config.schedule == "constant":
        return config.learning_rate
    cosine = keras.optimizers.schedules.CosineDecay
    # Without a warm-up the unet can settle on handing its input through, and stay there.
    warmup = min(config.warmup_steps, steps // 2)
    if warmup == 0:
        return cosine(config.learning_rate, steps)
    return cosine(0.0, steps - warmup, warmup_target=config.learning_rate, warmup_steps=warmup)


def compute_validation_mse(model: keras.Model, noisy: NoisySet) -> float:
    """Return the pooled MSE over a frozen set, from predictions, in float64."""
    return float(scores.compute_errors(make_denoiser(model), noisy).mean())


class EndOfEpoch(keras.callbacks.Callback):
    """Validates, checkpoints and reports each epoch, in this order, and stops early where that is asked for."""

    def __init__(self, config: TrainConfig, noisy: NoisySet, checkpoint: Checkpoint, report: Report) -> None:
        super().__init__()
        self.config, self.noisy, self.checkpoint, self.report = config, noisy, checkpoint, report

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the time."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Score the epoch; `logs` gains ``val_mse``, which Keras then prints and keeps in its history."""
        logs = {} if logs is None else logs
        logs["val_mse"] = compute_validation_mse(self.model, self.noisy)
        if not np.isfinite(logs["val_mse"]):
            raise TrainingDivergedError(f"epoch {epoch + 1}: validation MSE must be finite, received {logs['val_mse']}")
        row = {
            "train_loss": logs["loss"],
            "val_mse": logs["val_mse"],
            "epoch_seconds": time.perf_counter() - self.started,
        }
        self.checkpoint.save(self.model, row)
        self.report(epoch, row)
        best = self.checkpoint.best_epoch
        if self.config.patience is not None and epoch - best >= self.config.patience:
            self.model.stop_training = True


def fit_network(
    config: PipelineConfig, images: ImageSets, noisy: NoisySets, folder: Path, report: Report = lambda epoch, row: None
) -> tuple[keras.Model, History]:
    """Train the configured network, or resume an interrupted training.

    Parameters
    ----------
    config : PipelineConfig
    images : ImageSets
    noisy : NoisySets
    folder : Path
        Where the checkpoint lies. If it holds one, training goes on after its last finished epoch, and ends with the same
        weights and history as an undisturbed training.
    report : callable
        Called after each epoch with its number, from 0, and ``train_loss``, ``val_mse`` and ``epoch_seconds``; on resumption
        first with each epoch already done.

    Returns
    -------
    model : keras.Model
        With the weights of the epoch of the lowest validation MSE.
    history : list of dict
        One row an epoch.

    Raises
    ------
    TrainingDivergedError
        If the loss or the validation MSE is not finite.
    CheckpointError
        If `folder` holds the checkpoint of another configuration.
    """
    checkpoint = Checkpoint.open(folder, config.digest)
    for epoch, row in enumerate(checkpoint.history):
        report(epoch, row)
    model = checkpoint.load_last() or compile_model(config, images)
    batches = NoisyBatches(config, images, noisy, len(checkpoint.history))
    end_of_epoch = EndOfEpoch(config.train, noisy.validation, checkpoint, report)
    logger.info("device: %s (%s)", provenance.list_devices(), keras.config.backend())
    logger.info(
        "train: %s of %s parameters, epochs %d to %d of %s steps of %d images",
        model.name,
        f"{model.count_params():,}",
        batches.first_epoch + 1,
        config.train.epochs,
        f"{batches.steps:,}",
        config.train.batch_size,
    )
    if not checkpoint.finished(config.train):
        try:
            model.fit(
                batches,
                steps_per_epoch=batches.steps,
                initial_epoch=len(checkpoint.history),
                epochs=config.train.epochs,
                callbacks=[keras.callbacks.TerminateOnNaN(raise_error=True), end_of_epoch],
                verbose=1 if sys.stdout.isatty() else 2,
                shuffle=False,
            )
        except RuntimeError as error:
            if "NaN or Inf loss" in str(error):
                raise TrainingDivergedError(f"the training loss must be finite: {error}") from error
            raise
    return checkpoint.load_best(), checkpoint.history
