"""The gate: a pure function from scores and policy to a verdict with its reasons. It fails closed."""

from __future__ import annotations

import math

from dae.config import GateConfig
from dae.records import Check, Scores, Verdict


def judge(scores: Scores, policy: GateConfig) -> Verdict:
    """Decide whether a model may be promoted.

    Parameters
    ----------
    scores : Scores
        Of the logged model, on the frozen sets. Only the validation scores are judged.
    policy : GateConfig

    Returns
    -------
    Verdict
        Promoted if at least one check was asked for and all passed. A score that is missing or not finite refuses; it is never
        an exception.
    """
    checks: list[Check] = []
    pooled = scores.validation.pooled.mse
    if policy.max_val_mse is not None:
        checks.append(_at_most("val_mse", pooled, policy.max_val_mse, "gate.max_val_mse"))
    elif not math.isfinite(pooled):
        checks.append(_at_most("val_mse", pooled, None, "every model"))
    if policy.beat_nothing:
        per_kind, nothing = scores.validation.per_kind, scores.validation.per_kind_nothing
        if not nothing:
            checks.append(_at_most("val_mse_per_kind", None, None, "gate.beat_nothing"))
        for kind in nothing | per_kind:
            value = per_kind[kind].mse if kind in per_kind else None
            limit = nothing[kind].mse if kind in nothing else None
            checks.append(_at_most(f"val_mse_{kind}", value, limit, "doing nothing"))
    reasons = tuple(check.reason for check in checks if not check.passed)
    if not checks:
        reasons = (
            "the policy asks for nothing, and nothing is promoted for nothing: set gate.max_val_mse or gate.beat_nothing",
        )
    return Verdict(promoted=not reasons, checks=tuple(checks), reasons=reasons)


def _at_most(name: str, value: float | None, limit: float | None, source: str) -> Check:
    passed = False
    if value is None:
        reason = f"{name}: the score is missing ({source})"
    elif not math.isfinite(value):
        reason = f"{name}: {value:g} is not a finite number ({source})"
    elif limit is None or not math.isfinite(limit):
        reason = f"{name}: there is no finite limit to compare {value:.5f} with ({source})"
    else:
        passed = value <= limit
        reason = f"{name}: {value:.5f} is {'at most' if passed else 'above'} {limit:.5f} ({source})"
    return Check(name=name, value=value, limit=limit, source=source, passed=passed, reason=reason)
