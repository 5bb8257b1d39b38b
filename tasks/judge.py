"""Judge: what the gate says of a version, before anything is decided, so that a person can be asked."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae.config.schema import GateConfig
from dae.promotion import history, promote
from dae.promotion.schemas import Candidate, Trial, Verdict
from dae.schemas import NoisySets, Scores


@task(cache_policy=NO_CACHE)
def judge(candidate: Candidate, scores: Scores, noisy: NoisySets, policy: GateConfig) -> tuple[Verdict, Trial | None]:
    """Judge a version against the present champion, and return what it did as a version, too; nothing is written."""
    from dae.promotion.evidence import Judge

    entries = promote.settled(candidate.name, write=False)
    found = Judge(candidate, scores, noisy, policy)
    verdict = found(history.champion(entries))
    return verdict, found.trial if policy.works is not None else None
