"""The gate: a pure function from evidence and policy to a verdict with its reasons. It fails closed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dae.config.schema import ChampionPolicy, GateConfig, SmokeTestPolicy
from dae.evaluation.bootstrap import PairedComparison, PairedDifference
from dae.promotion.schemas import BaselineComparison, ChampionComparison, Check, GateInputs, GateResult, SmokeTestResult
from dae.schemas import EIGHT_BIT, CleanInput, Scores

OUTPUT_TOLERANCE = 1e-6
"""Largest absolute difference of a version's outputs from those it gave when it was logged."""
LEFT_ALONE = {
    "images": "clean images",
    "borders": "the borders of clean images",
    "constants": "images of a single value",
    "bars": "black and white bars",
    "own_output": "its own output",
}


def evaluate_gate(evidence: GateInputs, policy: GateConfig) -> GateResult:
    """Decide whether a model may be promoted.

    Parameters
    ----------
    evidence : Evidence
        Scores of the logged model on the frozen sets, of which only the validation scores are judged; how it compares with the
        champion; what it did as a registered version; classical methods beside it.
    policy : GateConfig
        Which checks are made, and with which limits.

    Returns
    -------
    Verdict
        Promoted if at least one check of quality was made and all checks passed. A score that is missing or not finite
        refuses; it is never an exception.
    """
    quality = [
        *_against_limits(evidence.scores, policy),
        *_against_champion(evidence.opponent, policy.champion),
        *_against_baselines(evidence.rivals, policy.beat_baselines),
    ]
    # No quality by itself: what hands every image through passes.
    left_alone = _on_clean_input(evidence.scores.clean_input, policy.clean_input)
    checks = [*quality, *left_alone, *_smoke_test(evidence.trial, policy.smoke_test)]
    reasons = tuple(check.reason for check in checks if not check.passed)
    if not quality:
        unmet = "" if policy.champion is None else f", and {_no_comparison(evidence.opponent)}"
        rule = "nothing is promoted for nothing: set gate.max_val_mse, for one"
        reasons = (f"the policy asks for no quality{unmet}; {rule}", *reasons)
    return GateResult(promoted=not reasons, checks=tuple(checks), reasons=reasons, champion=evidence.opponent.version)


def _no_comparison(opponent: ChampionComparison) -> str:
    if opponent.version is None:
        return "there is no champion to compare with"
    return (
        f"the champion, version {opponent.version}, cannot be compared with: {opponent.trouble or 'it was not scored'}"
    )


def _against_limits(scores: Scores, policy: GateConfig) -> Iterator[Check]:
    validation = scores.validation
    pooled = validation.pooled.mse
    if policy.max_val_mse is not None:
        yield _at_most("val_mse", pooled, policy.max_val_mse, "gate.max_val_mse")
    elif not math.isfinite(pooled):
        yield _at_most("val_mse", pooled, None, "every model")
    per_kind, nothing = validation.per_kind, validation.per_kind_nothing
    for kind, asked in policy.max_val_mse_per_kind.items():
        # A bare name is that of a kind in every form there is.
        for form in [form for form in per_kind if form.removesuffix(EIGHT_BIT) == kind] or [kind]:
            value = per_kind[form].mse if form in per_kind else None
            yield _at_most(f"val_mse_{form}", value, asked, "gate.max_val_mse_per_kind")
    if not policy.beat_noisy_input:
        for kind in per_kind:
            if kind not in policy.max_val_mse_per_kind and not math.isfinite(per_kind[kind].mse):
                yield _at_most(f"val_mse_{kind}", per_kind[kind].mse, None, "every model")
        return
    if not nothing:
        yield _at_most("val_mse_per_kind", None, None, "gate.beat_noisy_input")
    for kind in nothing | per_kind:
        value = per_kind[kind].mse if kind in per_kind else None
        limit = nothing[kind].mse if kind in nothing else None
        yield _at_most(f"val_mse_{kind}", value, limit, "doing nothing")


def _on_clean_input(found: CleanInput | None, limit: float | None) -> Iterator[Check]:
    """Compare what the model changes of images that hold no noise with one limit for all of them."""
    if limit is None:
        return
    for name, what in LEFT_ALONE.items():
        value = None if found is None else getattr(found, name)
        yield _at_most(f"clean_{name}", value, limit, f"gate.clean_input, mean squared change of {what}")


def _against_champion(opponent: ChampionComparison, policy: ChampionPolicy | None) -> Iterator[Check]:
    if policy is None or opponent.version is None:
        return
    if opponent.comparison is None:
        if policy.incomparable == "refuse":
            trouble = opponent.trouble or "it was not scored"
            yield _failed("champion", f"cannot be compared with version {opponent.version}: {trouble}")
        return
    comparison = opponent.comparison
    source = f"champion, version {opponent.version}"
    yield _not_worse("vs_champion", comparison.pooled, policy.tolerance, comparison, source)
    if policy.tolerance_per_kind is not None:
        if not comparison.per_kind:
            yield _failed("vs_champion_per_kind", "no kind of noise was compared")
        for kind, compared in comparison.per_kind.items():
            yield _not_worse(f"vs_champion_{kind}", compared, policy.tolerance_per_kind, comparison, source)


def _not_worse(
    name: str, found: PairedDifference, tolerance: float, comparison: PairedComparison, source: str
) -> Check:
    """Pass if the interval of the relative difference lies, with its upper end, within the tolerance."""
    numbers = (found.challenger, found.champion, found.low, found.high)
    if not all(map(math.isfinite, numbers)):
        value = found.high if math.isfinite(found.high) else None
        few = f"on {found.count} image{'s' * (found.count != 1)} " if found.count < 2 else ""
        reason = f"{name}: {found.challenger:g} beside {found.champion:g} {few}cannot be compared ({source})"
        return Check(name=name, value=value, limit=tolerance, source=source, passed=False, reason=reason)
    passed = found.high <= tolerance
    shown = "within" if passed else ("above" if found.low > tolerance else "not shown to be within")
    reason = (
        f"{name}: {found.challenger:.5f} beside {found.champion:.5f}, {found.low:+.1%} to {found.high:+.1%} "
        f"({comparison.confidence:.0%} interval, {found.count} images) is {shown} {tolerance:+.1%} ({source})"
    )
    return Check(name=name, value=found.high, limit=tolerance, source=source, passed=passed, reason=reason)


def _against_baselines(rivals: Sequence[BaselineComparison], asked: Sequence[str]) -> Iterator[Check]:
    measured = {rival.name: rival for rival in rivals}
    for name in asked:
        rival = measured.get(name)
        value, limit = (rival.model_mse, rival.mse) if rival else (None, None)
        images = f" on {rival.images} images" if rival else ""
        yield _at_most(f"vs_{name}", value, limit, f"classical method {name}{images}")


def _smoke_test(trial: SmokeTestResult | None, policy: SmokeTestPolicy | None) -> Iterator[Check]:
    if policy is None:
        return
    if trial is None:
        yield _failed("smoke_test", "the registered version was not tried")
        return
    yield check_loads(trial)
    if trial.error is not None:
        return
    yield from check_unchanged(trial)
    if policy.any_size:
        yield _fine("other_size", trial.other_size, "restores images of another size than it was trained on")
    budgets = (
        ("latency_ms", trial.latency_ms, policy.max_latency_ms),
        ("file_mib", trial.file_mib, policy.max_file_mib),
        ("memory_mib", trial.memory_mib, policy.max_memory_mib),
    )
    for name, value, limit in budgets:
        if limit is not None:
            yield _at_most(name, value, limit, f"gate.smoke_test.max_{name}", form=".1f")


def check_loads(trial: SmokeTestResult) -> Check:
    """Return whether a version loads in a clean process and restores an image: what even a forced promotion asks."""
    return _fine("loads", trial.error or trial.one_image, "loads in a clean process and restores a single image")


def check_unchanged(trial: SmokeTestResult) -> Iterator[Check]:
    """Yield whether a version is what was logged: by the digest of its file, and by its outputs."""
    trouble = None
    if trial.sha256 is None or trial.recorded_sha256 != trial.sha256:
        recorded = f"{trial.recorded_sha256[:12]} was" if trial.recorded_sha256 else "none was"
        trouble = f"the model file has SHA-256 {(trial.sha256 or 'unknown')[:12]}, {recorded} recorded"
    yield _fine("checksum", trouble, "the model file has the SHA-256 that was recorded")
    yield _at_most(
        "outputs", trial.difference, OUTPUT_TOLERANCE, "difference from the outputs when it was logged", form=".1g"
    )


def _fine(name: str, trouble: str | None, promise: str) -> Check:
    return (
        _failed(name, trouble)
        if trouble
        else Check(
            name=name, value=None, limit=None, source="registered version", passed=True, reason=f"{name}: {promise}"
        )
    )


def _failed(name: str, trouble: str) -> Check:
    return Check(name=name, value=None, limit=None, source="", passed=False, reason=f"{name}: {trouble}")


def _at_most(name: str, value: float | None, limit: float | None, source: str, form: str = ".5f") -> Check:
    passed = False
    if value is None:
        reason = f"{name}: the score is missing ({source})"
    elif not math.isfinite(value):
        reason = f"{name}: {value:g} is not a finite number ({source})"
    elif limit is None or not math.isfinite(limit):
        reason = f"{name}: there is no finite limit to compare {value:{form}} with ({source})"
    else:
        passed = value <= limit
        relation = "at most" if passed else "above"
        reason = f"{name}: {value:{form}} is {relation} {limit:{form}} ({source})"
    return Check(name=name, value=value, limit=limit, source=source, passed=passed, reason=reason)
