from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dae.config import GateConfig
from dae.gate import judge
from dae.records import Quality, Scores, SplitScores

KINDS = ("gaussian", "salt_and_pepper", "poisson", "speckle")
ERRORS = st.floats(0, 0.2)
ANY = st.floats(0, 0.02) | st.sampled_from([math.nan, math.inf, -math.inf])
POLICIES = st.builds(GateConfig, max_val_mse=st.none() | st.floats(1e-4, 0.2), beat_nothing=st.booleans())


def quality(mse: float) -> Quality:
    return Quality(mse=mse, psnr=20, ssim=0.9, count=100)


def scored(
    pooled: float = 0.004, model: dict[str, float] | None = None, nothing: dict[str, float] | None = None
) -> Scores:
    """Return scores that pass the default gate, but for what is changed."""
    model = dict.fromkeys(KINDS, 0.004) if model is None else model
    nothing = dict.fromkeys(KINDS, 0.04) if nothing is None else nothing
    validation = SplitScores(
        pooled=quality(pooled),
        pooled_nothing=quality(0.04),
        per_kind={kind: quality(mse) for kind, mse in model.items()},
        per_kind_nothing={kind: quality(mse) for kind, mse in nothing.items()},
    )
    return Scores(model_uri="models:/m-1", validation=validation, test=validation, images_per_second=1)


def by_kind(values: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, float]]:
    return st.dictionaries(st.sampled_from(KINDS), values)


def full(values: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, float]]:
    return st.fixed_dictionaries(dict.fromkeys(KINDS, values))


def test_a_model_below_the_limit_and_better_than_nothing_on_every_kind_is_promoted() -> None:
    verdict = judge(scored(), GateConfig())
    assert verdict.promoted
    assert verdict.word == "promoted"
    assert verdict.reasons == ()
    assert [check.name for check in verdict.checks] == ["val_mse", *(f"val_mse_{kind}" for kind in KINDS)]
    assert all(check.passed for check in verdict.checks)


def test_a_limit_that_is_just_met_passes() -> None:
    assert judge(scored(0.0069, nothing=dict.fromkeys(KINDS, 0.004)), GateConfig()).promoted


def test_a_pooled_error_above_the_limit_is_refused_with_value_limit_and_source() -> None:
    verdict = judge(scored(pooled=0.0070), GateConfig())
    assert (verdict.promoted, verdict.word) == (False, "refused")
    assert verdict.reasons == ("val_mse: 0.00700 is above 0.00690 (gate.max_val_mse)",)
    assert (verdict.checks[0].value, verdict.checks[0].limit, verdict.checks[0].passed) == (0.0070, 0.0069, False)


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_made_worse_than_doing_nothing_is_refused_however_good_the_rest(kind: str) -> None:
    verdict = judge(scored(0.001, nothing={**dict.fromkeys(KINDS, 0.04), kind: 0.0013}), GateConfig())
    assert verdict.reasons == (f"val_mse_{kind}: 0.00400 is above 0.00130 (doing nothing)",)


def test_the_articles_model_is_refused_for_what_it_does_to_poisson_images() -> None:
    model = {"gaussian": 0.0082, "salt_and_pepper": 0.0061, "poisson": 0.0048, "speckle": 0.0085}
    nothing = {"gaussian": 0.0516, "salt_and_pepper": 0.0726, "poisson": 0.0013, "speckle": 0.0323}
    verdict = judge(scored(0.0069, model, nothing), GateConfig())
    assert [check.name for check in verdict.checks if not check.passed] == ["val_mse_poisson"]


def test_every_reason_of_a_refusal_is_given() -> None:
    verdict = judge(scored(0.5, dict.fromkeys(KINDS, 0.5)), GateConfig())
    assert len(verdict.reasons) == 1 + len(KINDS)


def test_an_empty_policy_promotes_nothing() -> None:
    verdict = judge(scored(0.0, dict.fromkeys(KINDS, 0.0)), GateConfig(max_val_mse=None, beat_nothing=False))
    assert not verdict.promoted
    assert verdict.checks == ()
    assert "the policy asks for nothing" in verdict.reasons[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_finite_number_refuses(value: float) -> None:
    limit_only = GateConfig(beat_nothing=False)
    floor_only = GateConfig(max_val_mse=None)
    one_kind = {**dict.fromkeys(KINDS, 0.004), "speckle": value}
    for scores, policy in [
        (scored(pooled=value), limit_only),
        (scored(model=one_kind), floor_only),
        (scored(nothing=one_kind), floor_only),
    ]:
        verdict = judge(scores, policy)
        assert not verdict.promoted
        assert "finite" in verdict.reasons[0]


@pytest.mark.parametrize("missing", KINDS)
def test_a_missing_score_or_a_missing_floor_refuses(missing: str) -> None:
    without = {kind: 0.004 for kind in KINDS if kind != missing}
    for scores, what in [(scored(model=without), "score"), (scored(nothing=without), "limit")]:
        (reason,) = judge(scores, GateConfig()).reasons
        assert reason.startswith(f"val_mse_{missing}: ")
        assert what in reason


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_pooled_score_that_is_no_number_refuses_whatever_is_asked(value: float) -> None:
    verdict = judge(scored(pooled=value), GateConfig(max_val_mse=None))
    assert not verdict.promoted
    assert "val_mse" in verdict.reasons[0]


def test_scores_without_any_kind_refuse_where_kinds_are_asked_for() -> None:
    assert not judge(scored(model={}, nothing={}), GateConfig()).promoted


def test_only_the_validation_scores_are_judged() -> None:
    bad = scored(0.5, dict.fromkeys(KINDS, 0.5)).validation
    assert judge(scored().model_copy(update={"test": bad}), GateConfig()).promoted


@given(ANY, by_kind(ANY), by_kind(ANY), POLICIES)
def test_a_promotion_rests_on_finite_scores_that_are_all_there_and_within_their_limits(
    pooled: float, model: dict[str, float], nothing: dict[str, float], policy: GateConfig
) -> None:
    verdict = judge(scored(pooled, model, nothing), policy)
    assert verdict.promoted == (not verdict.reasons)
    if not verdict.promoted:
        return
    assert policy.max_val_mse is not None or policy.beat_nothing
    if policy.max_val_mse is not None:
        assert math.isfinite(pooled)
        assert pooled <= policy.max_val_mse
    if policy.beat_nothing:
        assert model.keys() == nothing.keys() != set()
        assert all(math.isfinite(model[kind]) and model[kind] <= nothing[kind] < math.inf for kind in model)


@given(ERRORS, full(ERRORS), full(ERRORS), POLICIES, st.tuples(st.floats(0, 1), full(st.floats(0, 1))))
def test_improving_any_score_never_turns_a_promotion_into_a_refusal(
    pooled: float,
    model: dict[str, float],
    excess: dict[str, float],
    policy: GateConfig,
    improvement: tuple[float, dict[str, float]],
) -> None:
    factor, factors = improvement
    nothing = {kind: model[kind] + excess[kind] - 0.01 for kind in KINDS}
    better = {kind: model[kind] * factors[kind] for kind in KINDS}
    if judge(scored(pooled, model, nothing), policy).promoted:
        assert judge(scored(pooled * factor, better, nothing), policy).promoted


@given(ANY, by_kind(ANY), by_kind(ANY), POLICIES)
def test_every_check_says_what_was_asked_and_every_failed_one_is_a_reason(
    pooled: float, model: dict[str, float], nothing: dict[str, float], policy: GateConfig
) -> None:
    verdict = judge(scored(pooled, model, nothing), policy)
    assert all(check.reason.startswith(f"{check.name}: ") for check in verdict.checks)
    if verdict.checks:
        assert verdict.reasons == tuple(check.reason for check in verdict.checks if not check.passed)


def test_a_kind_that_no_validation_image_got_refuses() -> None:
    """Its score is not a number; nothing is known about it."""
    verdict = judge(scored(model={**dict.fromkeys(KINDS, 0.001), "speckle": math.nan}), GateConfig())
    assert verdict.reasons == ("val_mse_speckle: nan is not a finite number (doing nothing)",)
