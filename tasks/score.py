"""Score: a registered version on the frozen noisy images of its own configuration."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae.config.schema import PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.evaluation import scores
from dae.promotion.schemas import Candidate
from dae.schemas import NoisySets, Scores
from dae.tracking import models, runs
from tasks.retries import RETRIES


@task(cache_policy=NO_CACHE, **RETRIES)
def score(candidate: Candidate, config: PipelineConfig) -> tuple[Scores, NoisySets]:
    """Draw or find the noisy images on which a version was validated, check that they are the same, and score it again."""
    from dae.networks.predict import make_denoiser

    images = datasets.ingest(config.data)
    noisy = noisy_datasets.corrupt_sets(images, config.noise)
    runs.require_same_images(candidate.run_id, images, noisy)
    return scores.evaluate_model(make_denoiser(models.load_model(candidate.model_uri)), noisy, candidate.model_uri)[
        0
    ], noisy
