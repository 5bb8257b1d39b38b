"""Train: fit the network, and log each epoch, the curve and the best epoch's model."""

from __future__ import annotations

import time
from collections.abc import Mapping

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from dae import storage
from dae.config.schema import PipelineConfig
from dae.data import noisy_datasets
from dae.schemas import ImageSets, NoisySets, TrainedModel
from dae.tracking import log_model
from dae.tracking.run_logging import log_epoch, log_figure
from dae.training import domain
from tasks.retries import RETRIES


@task(cache_policy=NO_CACHE, **RETRIES)
def train(config: PipelineConfig, images: ImageSets, noisy: NoisySets, run_id: str) -> TrainedModel:
    """Train, or resume this run after its last epoch, and log the model with the best validation MSE."""
    from dae.evaluation import figures
    from dae.training import fit

    logger = get_run_logger()

    def report(epoch: int, row: Mapping[str, float]) -> None:
        log_epoch(run_id, epoch, row)
        logger.info("epoch %d: training loss %.5f, validation MSE %.5f", epoch + 1, row["train_loss"], row["val_mse"])

    started = time.perf_counter()
    folder = storage.cache_folder() / "checkpoints" / run_id
    model, history = fit.fit_network(config, images, noisy, folder, report)
    seconds = time.perf_counter() - started
    log_figure(run_id, figures.plot_loss_curves(history, config.gate.max_val_mse), "loss_curves")
    example = noisy_datasets.read_block(noisy.validation, slice(2))[0]
    windows = config.data.patch is not None or (config.noise.training == "fresh" and config.train.page_share > 0)
    trained_on = domain.measure_training_domain(noisy.validation, windows=windows)
    model_id, model_uri = log_model.log_model(run_id, model, example, config.tracking.model_name, trained_on)
    values = [row["val_mse"] for row in history]
    return TrainedModel(
        run_id=run_id,
        model_id=model_id,
        model_uri=model_uri,
        epochs=len(history),
        best_epoch=values.index(min(values)) + 1,
        best_val_mse=min(values),
        parameters=model.count_params(),
        seconds=seconds,
    )
