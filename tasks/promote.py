"""Promote: judge a version, and make it the champion if it passes the gate or is forced."""

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
    smoke_test: SmokeTestResult | None = None,
) -> ModelVersion:
    """Judge a version against the present champion, decide, and show the verdict with the flow run.

    `smoke_test` is the result from when a person was asked; if there is one, the test is not repeated.
    """
    from dae.promotion.evidence import CandidateEvaluator

    evaluator = CandidateEvaluator(candidate, scores, noisy, policy, smoke_test)
    decision = decide_promotion(
        candidate,
        evaluator,
        policy,
        smoke_test=lambda: evaluator.smoke_test,
        answer=answer,
        val_mse=scores.validation.pooled.mse,
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
