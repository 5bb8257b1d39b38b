"""Assess: score the champion on fresh noise and on new images."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from dae.monitoring import staleness
from dae.monitoring.staleness import Staleness, StalenessPolicy
from tasks.retries import RETRIES


@task(cache_policy=NO_CACHE, **RETRIES)
def assess(policy: StalenessPolicy, seed: int) -> Staleness:
    """Score the champion, and compare with its scores from when it was trained."""
    return staleness.check_staleness(policy, seed)
