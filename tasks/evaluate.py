"""Evaluate: score the model that was logged, and picture what it does."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae import evaluation, models, recording, tracking
from dae.records import NoisySets, Scores, TrainedModel
from tasks.retries import RETRIES


@task(cache_policy=NO_CACHE, **RETRIES)
def evaluate(model: TrainedModel, noisy: NoisySets) -> Scores:
    """Load the logged model by its URI and score it on the frozen sets."""
    from dae import pictures
    from dae.inference import denoiser

    denoise = denoiser(models.load(model.model_uri))
    scores, per_image = evaluation.evaluate(denoise, noisy, model.model_uri)
    recording.log_scores(model.run_id, scores)
    for name, figure in pictures.pictures(denoise, noisy.test, per_image):
        tracking.log_figure(model.run_id, figure, name)
    return scores
