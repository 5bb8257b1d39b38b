"""Score: a version that was trained before, on the frozen noisy images of its own configuration, as they are now."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae import corruption, data, evaluation, models, past_runs
from dae.config import PipelineConfig
from dae.records import NoisySets, Scores
from dae.verdicts import Candidate
from tasks.retries import RETRIES


@task(cache_policy=NO_CACHE, **RETRIES)
def score(candidate: Candidate, config: PipelineConfig) -> tuple[Scores, NoisySets]:
    """Draw, or find, the noisy images a version was validated on, check that they are those, and score it anew."""
    from dae.inference import denoiser

    images = data.ingest(config.data)
    noisy = corruption.corrupt_sets(images, config.noise)
    past_runs.require_same_images(candidate.run_id, images, noisy)
    return evaluation.evaluate(denoiser(models.load(candidate.model_uri)), noisy, candidate.model_uri)[0], noisy
