"""Judge: the verdict of the gate on a version, before a person is asked and anything is decided."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae.config.schema import GateConfig
from dae.promotion import history, promote
from dae.promotion.schemas import Candidate, GateResult, SmokeTestResult
from dae.schemas import NoisySets, Scores


@task(cache_policy=NO_CACHE)
def judge(
    candidate: Candidate, scores: Scores, noisy: NoisySets, policy: GateConfig
) -> tuple[GateResult, SmokeTestResult | None]:
    """Judge a version against the present champion, and return the verdict and the smoke test. Nothing is written."""
    from dae.promotion.evidence import CandidateEvaluator

    entries = promote.reconcile(candidate.name, write=False)
    evaluator = CandidateEvaluator(candidate, scores, noisy, policy)
    verdict = evaluator(history.champion_after(entries))
    return verdict, evaluator.smoke_test if policy.smoke_test is not None else None
