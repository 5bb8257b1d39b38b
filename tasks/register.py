"""Register: a version of the registered model, and the champion alias if the gate lets it pass."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from dae import gate, registry, report
from dae.config import PipelineConfig
from dae.records import ImageSets, ModelVersion, NoisySets, Scores, TrainedModel


@task(cache_policy=NO_CACHE)
def register(
    config: PipelineConfig, images: ImageSets, noisy: NoisySets, model: TrainedModel, scores: Scores
) -> ModelVersion:
    """Judge the scores, register the model that was scored, and show the verdict beside the run."""
    verdict = gate.judge(scores, config.gate)
    version = registry.register(config, model, scores, verdict, images.digest, noisy)
    create_markdown_artifact(
        report.markdown(version, scores), key="verdict", description=f"{verdict.word}: {config.run_name}"
    )
    return version
