"""Promote: judge a version, and make it the champion if the gate, or a person, lets it pass."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from dae.config.schema import GateConfig
from dae.promotion import registry, reports
from dae.promotion.promote import decide_promotion
from dae.promotion.schemas import ApprovalAnswer, Candidate, ModelVersion, SmokeTestResult
from dae.schemas import NoisySets, Scores


@task(cache_policy=NO_CACHE)
def promote(
    candidate: Candidate,
    scores: Scores,
    noisy: NoisySets,
    policy: GateConfig,
    answer: ApprovalAnswer | None = None,
    trial: SmokeTestResult | None = None,
) -> ModelVersion:
    """Judge a version against the champion of this moment, decide, and show the verdict beside the run.

    `trial` is what the version did when a person was asked; it is not tried again then.
    """
    from dae.promotion.evidence import CandidateEvaluator

    judge = CandidateEvaluator(candidate, scores, noisy, policy, trial)
    decision = decide_promotion(
        candidate, judge, policy, trial=lambda: judge.trial, answer=answer, val_mse=scores.validation.pooled.mse
    )
    version = ModelVersion(
        name=candidate.name,
        version=candidate.version,
        model_uri=candidate.model_uri,
        decision=decision,
        aliases=tuple(registry.get_version(candidate.name, candidate.version).aliases),
    )
    create_markdown_artifact(
        reports.verdict_markdown(version, scores), key="verdict", description=reports.headline(version)
    )
    return version
