"""The gate: a pure function from inputs and policy to a result with its reasons. It fails closed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dae.config.schema import ChampionPolicy, GateConfig, SmokeTestPolicy
from dae.evaluation.bootstrap import PairedComparison, PairedDifference
from dae.extensions import GATE_CHECKS
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


def evaluate_gate(inputs: GateInputs, policy: GateConfig) -> GateResult:
    """Decide whether a model may be promoted.

    Parameters
    ----------
    inputs : GateInputs
        The validation scores of the logged model, its comparison with the champion and with classical methods, and the smoke
        test of the registered version.
    policy : GateConfig
        The checks and their limits.

    Returns
    -------
    GateResult
        Promoted if there was at least one check of quality and all checks passed. A score that is missing or not finite
        refuses; it is never an exception.
    """
    quality = [
        *_against_limits(inputs.scores, policy),
        *_against_champion(inputs.champion, policy.champion),
        *_against_baselines(inputs.baselines, policy.beat_baselines),
        *(GATE_CHECKS.load(name)(name, inputs, limit) for name, limit in policy.checks.items()),
    ]
    # Not a check of quality: a model that returns its input passes it.
    left_alone = _on_clean_input(inputs.scores.clean_input, policy.clean_input)
    checks = [*quality, *left_alone, *_smoke_test(inputs.smoke_test, policy.smoke_test)]
    reasons = tuple(check.reason for check in checks if not check.passed)
    if not quality:
        unmet = "" if policy.champion is None else f", and {_no_comparison(inputs.champion)}"
        rule = "a gate without a check of quality promotes nothing: set gate.max_val_mse, for one"
        reasons = (f"the policy has no check of quality{unmet}; {rule}", *reasons)
    return GateResult(promoted=not reasons, checks=tuple(checks), reasons=reasons, champion=inputs.champion.version)


def _no_comparison(champion: ChampionComparison) -> str:
    if champion.version is None:
        return "there is no champion to compare with"
    return (
        f"the champion, version {champion.version}, cannot be compared with: {champion.trouble or 'it was not scored'}"
    )


def _against_limits(scores: Scores, policy: GateConfig) -> Iterator[Check]:
    validation = scores.validation
    pooled = validation.pooled.mse
    if policy.max_val_mse is not None:
        yield _at_most("val_mse", pooled, policy.max_val_mse, "gate.max_val_mse")
    elif not math.isfinite(pooled):
        yield _at_most("val_mse", pooled, None, "every model")
    per_kind, noisy_input = validation.per_kind, validation.per_kind_nothing
    for kind, limit in policy.max_val_mse_per_kind.items():
        # A name without a form is that of the kind in all its forms.
        for form in [form for form in per_kind if form.removesuffix(EIGHT_BIT) == kind] or [kind]:
            value = per_kind[form].mse if form in per_kind else None
            yield _at_most(f"val_mse_{form}", value, limit, "gate.max_val_mse_per_kind")
    if not policy.beat_noisy_input:
        for kind in per_kind:
            if kind not in policy.max_val_mse_per_kind and not math.isfinite(per_kind[kind].mse):
                yield _at_most(f"val_mse_{kind}", per_kind[kind].mse, None, "every model")
        return
    if not noisy_input:
        yield _at_most("val_mse_per_kind", None, None, "gate.beat_noisy_input")
    for kind in noisy_input | per_kind:
        value = per_kind[kind].mse if kind in per_kind else None
        noisy_mse = noisy_input[kind].mse if kind in noisy_input else None
        yield _at_most(f"val_mse_{kind}", value, noisy_mse, "noisy input")


def _on_clean_input(change: CleanInput | None, limit: float | None) -> Iterator[Check]:
    """Compare the change of images without noise with one limit for all of them."""
    if limit is None:
        return
    for name, what in LEFT_ALONE.items():
        value = None if change is None else getattr(change, name)
        yield _at_most(f"clean_{name}", value, limit, f"gate.clean_input, mean squared change of {what}")


def _against_champion(champion: ChampionComparison, policy: ChampionPolicy | None) -> Iterator[Check]:
    if policy is None or champion.version is None:
        return
    if champion.comparison is None:
        if policy.incomparable == "refuse":
            trouble = champion.trouble or "it was not scored"
            yield _failed("champion", f"cannot be compared with version {champion.version}: {trouble}")
        return
    comparison = champion.comparison
    source = f"champion, version {champion.version}"
    yield _not_worse("vs_champion", comparison.pooled, policy.tolerance, comparison, source)
    if policy.tolerance_per_kind is not None:
        if not comparison.per_kind:
            yield _failed("vs_champion_per_kind", "no kind of noise was compared")
        for kind, compared in comparison.per_kind.items():
            yield _not_worse(f"vs_champion_{kind}", compared, policy.tolerance_per_kind, comparison, source)


def _not_worse(
    name: str, difference: PairedDifference, tolerance: float, comparison: PairedComparison, source: str
) -> Check:
    """Pass if the upper end of the interval of the relative difference is within the tolerance."""
    numbers = (difference.challenger, difference.champion, difference.low, difference.high)
    if not all(map(math.isfinite, numbers)):
        value = difference.high if math.isfinite(difference.high) else None
        few = f"on {difference.count} image{'s' * (difference.count != 1)} " if difference.count < 2 else ""
        reason = f"{name}: {difference.challenger:g} beside {difference.champion:g} {few}cannot be compared ({source})"
        return Check(name=name, value=value, limit=tolerance, source=source, passed=False, reason=reason)
    passed = difference.high <= tolerance
    shown = "within" if passed else ("above" if difference.low > tolerance else "not shown to be within")
    interval = f"{difference.low:+.1%} to {difference.high:+.1%}"
    reason = (
        f"{name}: {difference.challenger:.5f} beside {difference.champion:.5f}, {interval} "
        f"({comparison.confidence:.0%} interval, {difference.count} images) is {shown} {tolerance:+.1%} ({source})"
    )
    return Check(name=name, value=difference.high, limit=tolerance, source=source, passed=passed, reason=reason)


def _against_baselines(comparisons: Sequence[BaselineComparison], names: Sequence[str]) -> Iterator[Check]:
    measured = {comparison.name: comparison for comparison in comparisons}
    for name in names:
        baseline = measured.get(name)
        value, limit = (baseline.model_mse, baseline.mse) if baseline else (None, None)
        images = f" on {baseline.images} images" if baseline else ""
        yield _at_most(f"vs_{name}", value, limit, f"classical method {name}{images}")


def min_val_psnr(name: str, inputs: GateInputs, limit: float) -> Check:
    """Check that the mean validation PSNR, in decibels, is at least the limit.

    A check of `dae.extensions.GATE_CHECKS` is a function of its name, the inputs of the gate and the configured limit.
    """
    return _at_least(name, inputs.scores.validation.pooled.psnr, limit, f"gate.checks.{name}", form=".2f")


def min_val_ssim(name: str, inputs: GateInputs, limit: float) -> Check:
    """Check that the mean validation SSIM, in [-1, 1], is at least the limit."""
    return _at_least(name, inputs.scores.validation.pooled.ssim, limit, f"gate.checks.{name}", form=".4f")


def _smoke_test(smoke_test: SmokeTestResult | None, policy: SmokeTestPolicy | None) -> Iterator[Check]:
    if policy is None:
        return
    if smoke_test is None:
        yield _failed("smoke_test", "the registered version was not tried")
        return
    yield check_loads(smoke_test)
    if smoke_test.error is not None:
        return
    yield from check_unchanged(smoke_test)
    if policy.any_size:
        yield _fine("other_size", smoke_test.other_size, "restores images of another size than it was trained on")
    budgets = (
        ("latency_ms", smoke_test.latency_ms, policy.max_latency_ms),
        ("file_mib", smoke_test.file_mib, policy.max_file_mib),
        ("memory_mib", smoke_test.memory_mib, policy.max_memory_mib),
    )
    for name, value, limit in budgets:
        if limit is not None:
            yield _at_most(name, value, limit, f"gate.smoke_test.max_{name}", form=".1f")


def check_loads(smoke_test: SmokeTestResult) -> Check:
    """Return whether a version loads in a clean process and restores an image: what even a forced promotion asks."""
    return _fine(
        "loads", smoke_test.error or smoke_test.one_image, "loads in a clean process and restores a single image"
    )


def check_unchanged(smoke_test: SmokeTestResult) -> Iterator[Check]:
    """Yield whether a version is what was logged: by the digest of its file, and by its outputs."""
    trouble = None
    if smoke_test.sha256 is None or smoke_test.recorded_sha256 != smoke_test.sha256:
        recorded = f"{smoke_test.recorded_sha256[:12]} was" if smoke_test.recorded_sha256 else "none was"
        trouble = f"the model file has SHA-256 {(smoke_test.sha256 or 'unknown')[:12]}, {recorded} recorded"
    yield _fine("checksum", trouble, "the model file has the SHA-256 that was recorded")
    yield _at_most(
        "outputs", smoke_test.difference, OUTPUT_TOLERANCE, "difference from the outputs when it was logged", form=".1g"
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


def _at_least(name: str, value: float | None, limit: float | None, source: str, form: str = ".5f") -> Check:
    return _compare(name, value, limit, source, form, "at least", "below")


def _at_most(name: str, value: float | None, limit: float | None, source: str, form: str = ".5f") -> Check:
    return _compare(name, value, limit, source, form, "at most", "above")


def _compare(
    name: str, value: float | None, limit: float | None, source: str, form: str, rule: str, failure: str
) -> Check:
    """Compare a value with its limit. A value that is missing or not finite fails, and so does a limit that is not finite."""
    passed = False
    if value is None:
        reason = f"{name}: the score is missing ({source})"
    elif not math.isfinite(value):
        reason = f"{name}: {value:g} is not a finite number ({source})"
    elif limit is None or not math.isfinite(limit):
        reason = f"{name}: there is no finite limit to compare {value:{form}} with ({source})"
    else:
        passed = value <= limit if rule == "at most" else value >= limit
        reason = f"{name}: {value:{form}} is {rule if passed else failure} {limit:{form}} ({source})"
    return Check(name=name, value=value, limit=limit, source=source, passed=passed, reason=reason)
