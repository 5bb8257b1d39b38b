"""Corrupt: the frozen noise of the validation and test sets, and of the training set if its noise is configured as frozen."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae.config.schema import PipelineConfig
from dae.data import noisy_datasets
from dae.schemas import ImageSets, NoisySets
from dae.tracking import run_logging
from tasks.retries import RETRIES


@task(cache_policy=NO_CACHE, **RETRIES)
def corrupt(config: PipelineConfig, images: ImageSets, run_id: str) -> NoisySets:
    """Draw the noise, or find the stored noisy sets, and log them as inputs of the run."""
    noisy = noisy_datasets.corrupt_sets(images, config.noise)
    run_logging.log_inputs(run_id, images, noisy)
    return noisy
