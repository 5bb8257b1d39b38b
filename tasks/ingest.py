"""Ingest: images from their source into image sets on disk."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae.config.schema import PipelineConfig
from dae.data import datasets
from dae.schemas import ImageSets
from tasks.retries import RETRIES


@task(cache_policy=NO_CACHE, **RETRIES)
def ingest(config: PipelineConfig) -> ImageSets:
    """Store the images, or find the stored ones. Invalid baselines and image shapes are refused before anything slow starts."""
    if config.gate.beat_baselines:
        from dae.evaluation import baselines

        baselines.require_methods(config.gate.beat_baselines, config)
    images = datasets.ingest(config.data)
    from dae.networks.build import require_image_shape

    require_image_shape(config.model, images.train.shape)
    return images
