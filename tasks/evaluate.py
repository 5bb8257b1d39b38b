"""Evaluate: score the logged model, and plot its results."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae.evaluation import figures
from dae.evaluation.scores import evaluate_model
from dae.schemas import NoisySets, Scores, TrainedModel
from dae.tracking import models, run_logging
from dae.tracking.run_logging import log_figure
from tasks.retries import RETRIES


@task(cache_policy=NO_CACHE, **RETRIES)
def evaluate(model: TrainedModel, noisy: NoisySets) -> Scores:
    """Load the logged model by its URI and score it on the frozen sets."""
    from dae.networks.predict import make_denoiser

    denoise = make_denoiser(models.load_model(model.model_uri))
    scores, per_image = evaluate_model(denoise, noisy, model.model_uri)
    run_logging.log_scores(model.run_id, scores)
    for name, figure in figures.plot_run(denoise, noisy.test, per_image):
        log_figure(model.run_id, figure, name)
    return scores
