"""Register: create a version of the scored model. It is the challenger until the gate judges it."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae.config.schema import PipelineConfig
from dae.promotion import registry
from dae.promotion.schemas import Candidate
from dae.schemas import ImageSets, NoisySets, Scores, TrainedModel


@task(cache_policy=NO_CACHE)
def register(
    config: PipelineConfig, images: ImageSets, noisy: NoisySets, model: TrainedModel, scores: Scores
) -> Candidate:
    """Create a version of exactly the model that was scored."""
    return registry.register(config, model, scores, images.digest, noisy)
