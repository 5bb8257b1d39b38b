"""Ingest: images from their source into image sets on disk."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae import data
from dae.config import PipelineConfig
from dae.records import ImageSets


@task(cache_policy=NO_CACHE)
def ingest(config: PipelineConfig) -> ImageSets:
    """Store the images, or find them stored, and refuse a shape the network cannot take before anything long starts."""
    images = data.ingest(config.data)
    config.model.require(images.train.shape)
    return images
