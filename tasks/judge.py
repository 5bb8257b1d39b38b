"""Judge: what the gate says of a version, before anything is decided, so that a person can be asked."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae import history, promotion
from dae.config import GateConfig
from dae.records import NoisySets, Scores
from dae.verdicts import Candidate, Trial, Verdict


@task(cache_policy=NO_CACHE)
def judge(candidate: Candidate, scores: Scores, noisy: NoisySets, policy: GateConfig) -> tuple[Verdict, Trial | None]:
    """Judge a version against the present champion, and return what it did as a version, too; nothing is written."""
    from dae.evidence import Judge

    entries = promotion.settled(candidate.name, write=False)
    found = Judge(candidate, scores, noisy, policy)
    verdict = found(history.champion(entries))
    return verdict, found.trial if policy.works is not None else None
