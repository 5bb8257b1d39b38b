"""Judge: what the gate says of a version, before anything is decided, so that a person can be asked."""

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
    """Judge a version against the present champion, and return what it did as a version, too; nothing is written."""
    from dae.promotion.evidence import CandidateEvaluator

    entries = promote.reconcile(candidate.name, write=False)
    found = CandidateEvaluator(candidate, scores, noisy, policy)
    verdict = found(history.champion_after(entries))
    return verdict, found.trial if policy.smoke_test is not None else None
