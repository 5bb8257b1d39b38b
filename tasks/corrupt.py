"""Corrupt: the frozen noise of the sets that are scored, and of the training set where the configuration freezes it."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae import corruption, recording
from dae.config import PipelineConfig
from dae.records import ImageSets, NoisySets
from tasks.retries import RETRIES


@task(cache_policy=NO_CACHE, **RETRIES)
def corrupt(config: PipelineConfig, images: ImageSets, run_id: str) -> NoisySets:
    """Draw the noise, or find it drawn, and log what the run works on."""
    noisy = corruption.corrupt_sets(images, config.noise)
    recording.log_inputs(run_id, images, noisy)
    return noisy
