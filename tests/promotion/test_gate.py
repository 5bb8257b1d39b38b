from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dae.config.schema import ChampionPolicy, GateConfig, SmokeTestPolicy
from dae.evaluation.bootstrap import PairedComparison, PairedDifference
from dae.promotion import gate
from dae.promotion.schemas import BaselineComparison, ChampionComparison, GateInputs, GateResult, SmokeTestResult
from dae.schemas import CleanInput, Quality, Scores, SplitScores

KINDS = ("gaussian", "salt_and_pepper", "poisson", "speckle")
ERRORS = st.floats(0, 0.2)
LEFT_ALONE = CleanInput(images=0.0001, borders=0.0001, constants=0, bars=0, own_output=0.0001)
CLEAN = [f"clean_{name}" for name in CleanInput.model_fields]
ANY = st.floats(0, 0.02) | st.sampled_from([math.nan, math.inf, -math.inf])
POLICIES = st.builds(
    GateConfig,
    max_val_mse=st.none() | st.floats(1e-4, 0.2),
    max_val_mse_per_kind=st.dictionaries(st.sampled_from(KINDS), st.floats(1e-4, 0.2)),
    beat_noisy_input=st.booleans(),
    clean_input=st.none() | st.floats(1e-5, 0.1),
    champion=st.none()
    | st.builds(ChampionPolicy, tolerance=st.floats(-0.5, 0.5), tolerance_per_kind=st.none() | st.floats(-0.5, 0.5)),
    smoke_test=st.none()
    | st.builds(SmokeTestPolicy, any_size=st.booleans(), max_latency_ms=st.none() | st.floats(0.1, 10)),
    beat_baselines=st.just(()) | st.just(("median", "tv")),
)
WORKS = SmokeTestResult(
    sha256="a" * 64, recorded_sha256="a" * 64, difference=0.0, latency_ms=1.0, file_mib=1.0, memory_mib=900.0
)


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
    return Scores(
        model_uri="models:/m-1", validation=validation, test=validation, images_per_second=1, clean_input=LEFT_ALONE
    )


NO_CHAMPION = ChampionComparison()


def judge(
    scores: Scores,
    policy: GateConfig,
    champion: ChampionComparison = NO_CHAMPION,
    smoke_test: SmokeTestResult | None = WORKS,
    baselines: tuple[BaselineComparison, ...] = (),
) -> GateResult:
    """Judge by these scores; the version works and there is no champion, if nothing else is said."""
    return gate.evaluate_gate(
        GateInputs(scores=scores, champion=champion, smoke_test=smoke_test, baselines=baselines), policy
    )


def compared(low: float, high: float, challenger: float = 0.004, champion: float = 0.004) -> PairedDifference:
    return PairedDifference(challenger=challenger, champion=champion, low=low, high=high, count=100)


def against(pooled: PairedDifference, per_kind: dict[str, PairedDifference] | None = None) -> ChampionComparison:
    """Return a champion, version 7, that is met with these differences; equal on every kind if nothing else is said."""
    kinds = dict.fromkeys(KINDS, compared(0, 0)) if per_kind is None else per_kind
    return ChampionComparison(version="7", comparison=PairedComparison(confidence=0.95, pooled=pooled, per_kind=kinds))


def failed(verdict: GateResult) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def by_kind(values: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, float]]:
    return st.dictionaries(st.sampled_from(KINDS), values)


def full(values: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, float]]:
    return st.fixed_dictionaries(dict.fromkeys(KINDS, values))


def test_a_model_below_the_limit_and_better_than_nothing_on_every_kind_is_promoted() -> None:
    verdict = judge(scored(), GateConfig())
    assert verdict.promoted
    assert verdict.word == "promoted"
    assert verdict.reasons == ()
    names = [check.name for check in verdict.checks]
    works = ["loads", "checksum", "outputs", "other_size"]
    assert names == ["val_mse", *(f"val_mse_{kind}" for kind in KINDS), *CLEAN, *works]
    assert all(check.passed for check in verdict.checks)


def test_a_limit_that_is_just_met_passes() -> None:
    assert judge(scored(0.0069, nothing=dict.fromkeys(KINDS, 0.004)), GateConfig()).promoted


def test_a_pooled_error_above_the_limit_is_refused_with_value_limit_and_source() -> None:
    verdict = judge(scored(pooled=0.0070), GateConfig())
    assert (verdict.promoted, verdict.word) == (False, "refused")
    assert verdict.reasons == ("val_mse: 0.00700 is above 0.00690 (gate.max_val_mse)",)
    assert (verdict.checks[0].value, verdict.checks[0].limit, verdict.checks[0].passed) == (0.0070, 0.0069, False)


@pytest.mark.parametrize("name", CleanInput.model_fields)
@pytest.mark.parametrize("value", [0.00051, math.nan, math.inf])
def test_a_model_that_changes_what_holds_no_noise_is_refused(name: str, value: float) -> None:
    found = scored().model_copy(update={"clean_input": LEFT_ALONE.model_copy(update={name: value})})
    assert failed(judge(found, GateConfig(clean_input=0.0005))) == [f"clean_{name}"]
    assert judge(found, GateConfig(clean_input=None)).promoted


def test_scores_that_do_not_say_what_becomes_of_clean_images_are_refused() -> None:
    found = scored().model_copy(update={"clean_input": None})
    assert failed(judge(found, GateConfig())) == CLEAN
    assert judge(found, GateConfig(clean_input=None)).promoted


def test_a_limit_of_a_kind_holds_for_it_as_drawn_and_in_files() -> None:
    both = {"poisson": 0.0005, "poisson_8bit": 0.002}
    found = scored(model=both, nothing=dict.fromkeys(both, 0.04))
    for limits, wanted in [
        ({"poisson": 0.001}, ["val_mse_poisson_8bit"]),
        ({"poisson_8bit": 0.001}, ["val_mse_poisson_8bit"]),
        ({"poisson": 0.003}, []),
        ({"speckle": 0.003}, ["val_mse_speckle"]),
    ]:
        assert failed(judge(found, GateConfig(max_val_mse_per_kind=limits))) == wanted


def test_leaving_clean_images_alone_is_not_enough() -> None:
    policy = GateConfig(max_val_mse=None, beat_noisy_input=False, champion=None)
    assert not judge(scored(), policy).promoted


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_made_worse_than_doing_nothing_is_refused_however_good_the_rest(kind: str) -> None:
    verdict = judge(scored(0.001, nothing={**dict.fromkeys(KINDS, 0.04), kind: 0.0013}), GateConfig())
    assert verdict.reasons == (f"val_mse_{kind}: 0.00400 is above 0.00130 (noisy input)",)


def test_the_articles_model_is_refused_for_what_it_does_to_poisson_images() -> None:
    model = {"gaussian": 0.0082, "salt_and_pepper": 0.0061, "poisson": 0.0048, "speckle": 0.0085}
    nothing = {"gaussian": 0.0516, "salt_and_pepper": 0.0726, "poisson": 0.0013, "speckle": 0.0323}
    verdict = judge(scored(0.0069, model, nothing), GateConfig())
    assert [check.name for check in verdict.checks if not check.passed] == ["val_mse_poisson"]


def test_every_reason_of_a_refusal_is_given() -> None:
    verdict = judge(scored(0.5, dict.fromkeys(KINDS, 0.5)), GateConfig())
    assert len(verdict.reasons) == 1 + len(KINDS)


def test_an_empty_policy_promotes_nothing() -> None:
    verdict = judge(
        scored(0.0, dict.fromkeys(KINDS, 0.0)),
        GateConfig(max_val_mse=None, clean_input=None, beat_noisy_input=False, smoke_test=None),
    )
    assert not verdict.promoted
    assert verdict.checks == ()
    assert "the policy has no check of quality" in verdict.reasons[0]
    assert "a gate without a check of quality promotes nothing" in verdict.reasons[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_finite_number_refuses(value: float) -> None:
    limit_only = GateConfig(beat_noisy_input=False)
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


@pytest.mark.parametrize("value", [0.0051, math.nan, math.inf])
def test_a_limit_for_one_kind_holds_for_that_kind(value: float) -> None:
    policy = GateConfig(max_val_mse_per_kind={"poisson": 0.005})
    assert judge(scored(), policy).promoted
    scores = scored(model={**dict.fromkeys(KINDS, 0.004), "poisson": value})
    assert failed(judge(scores, policy))[0] == "val_mse_poisson"
    assert not judge(scored(model=dict.fromkeys(KINDS[:2], 0.004), nothing={}), policy).promoted


def test_without_a_champion_the_absolute_checks_decide() -> None:
    assert judge(scored(), GateConfig()).promoted
    only_champion = GateConfig(max_val_mse=None, beat_noisy_input=False)
    verdict = judge(scored(), only_champion)
    assert not verdict.promoted
    assert "there is no champion to compare with" in verdict.reasons[0]
    assert judge(scored(), only_champion, against(compared(-0.2, -0.1))).promoted


@pytest.mark.parametrize(
    ("tolerance", "low", "high", "word"),
    [
        (0.02, -0.01, 0.02, "within"),
        (0.02, -0.01, 0.021, "not shown to be within"),
        (0.02, 0.03, 0.05, "above"),
        (-0.05, -0.2, -0.05, "within"),
        (-0.05, -0.2, -0.04, "not shown to be within"),
        (0.0, 0.0, 0.0, "within"),
    ],
)
def test_a_challenger_must_be_shown_to_be_within_the_tolerance(
    tolerance: float, low: float, high: float, word: str
) -> None:
    policy = GateConfig(champion=ChampionPolicy(tolerance=tolerance, tolerance_per_kind=None))
    verdict = judge(scored(), policy, against(compared(low, high)))
    check = next(check for check in verdict.checks if check.name == "vs_champion")
    assert verdict.champion == "7"
    assert verdict.promoted == check.passed == (word == "within")
    assert (check.value, check.limit, check.source) == (high, tolerance, "champion, version 7")
    assert f"is {word} {tolerance:+.1%}" in check.reason


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_worse_than_the_champions_is_refused(kind: str) -> None:
    per_kind = dict.fromkeys(KINDS, compared(-0.1, 0.0)) | {kind: compared(0.2, 0.3)}
    champion = against(compared(-0.1, -0.05), per_kind)
    assert failed(judge(scored(), GateConfig(), champion)) == [f"vs_champion_{kind}"]
    assert judge(scored(), GateConfig(champion=ChampionPolicy(tolerance_per_kind=None)), champion).promoted


def test_a_champion_that_cannot_be_compared_is_handled_by_the_rule() -> None:
    champion = ChampionComparison(version="7", trouble="it takes images of 64x64x3")
    verdict = judge(scored(), GateConfig(), champion)
    assert verdict.reasons == ("champion: cannot be compared with version 7: it takes images of 64x64x3",)
    absolute = ChampionPolicy(incomparable="absolute")
    assert judge(scored(), GateConfig(champion=absolute), champion).promoted
    assert not judge(scored(0.5), GateConfig(champion=absolute), champion).promoted
    nothing_else = GateConfig(champion=absolute, max_val_mse=None, beat_noisy_input=False)
    assert not judge(scored(), nothing_else, champion).promoted


def test_a_comparison_without_kinds_refuses_where_kinds_are_asked_for() -> None:
    assert failed(judge(scored(), GateConfig(), against(compared(-0.1, -0.1), {}))) == ["vs_champion_per_kind"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["challenger", "champion", "low", "high"])
def test_a_comparison_that_is_no_finite_number_refuses(field: str, value: float) -> None:
    good = compared(-0.2, -0.1)
    champion = against(good.model_copy(update={field: value}))
    assert failed(judge(scored(), GateConfig(), champion)) == ["vs_champion"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"error": "ValueError: not a zip file"}, "loads"),
        ({"one_image": "images of 1x28x28x1 come back as 1x27x27x1"}, "loads"),
        ({"sha256": "b" * 64}, "checksum"),
        ({"recorded_sha256": None}, "checksum"),
        ({"sha256": None, "recorded_sha256": None}, "checksum"),
        ({"difference": 1.1e-6}, "outputs"),
        ({"difference": math.nan}, "outputs"),
        ({"difference": None}, "outputs"),
        ({"other_size": "images of 1x37x33x1 cannot be restored"}, "other_size"),
    ],
)
def test_a_version_that_does_not_work_is_refused(change: dict[str, object], name: str) -> None:
    smoke_test = WORKS.model_copy(update=change)
    verdict = judge(scored(), GateConfig(), smoke_test=smoke_test)
    assert failed(verdict) == [name]
    assert judge(scored(), GateConfig(smoke_test=None), smoke_test=smoke_test).promoted
    assert judge(scored(), GateConfig(smoke_test=SmokeTestPolicy(any_size=False)), smoke_test=smoke_test).promoted == (
        name == "other_size"
    )


def test_a_version_that_was_not_tried_is_refused() -> None:
    assert failed(judge(scored(), GateConfig(), smoke_test=None)) == ["smoke_test"]


@pytest.mark.parametrize("budget", ["latency_ms", "file_mib", "memory_mib"])
def test_a_budget_is_kept(budget: str) -> None:
    used = float(getattr(WORKS, budget))
    for limit, kept in ((used, True), (used * 0.99, False)):
        policy = GateConfig(smoke_test=SmokeTestPolicy.model_validate({f"max_{budget}": limit}))
        assert failed(judge(scored(), policy)) == ([] if kept else [budget])
    policy = GateConfig(smoke_test=SmokeTestPolicy.model_validate({f"max_{budget}": 1e9}))
    assert failed(judge(scored(), policy, smoke_test=WORKS.model_copy(update={budget: None}))) == [budget]


@pytest.mark.parametrize(
    ("baselines", "expected"),
    [
        ((BaselineComparison(name="median", mse=0.02, model_mse=0.01, images=9),), []),
        ((BaselineComparison(name="median", mse=0.01, model_mse=0.011, images=9),), ["vs_median"]),
        ((BaselineComparison(name="median", mse=math.nan, model_mse=0.01, images=9),), ["vs_median"]),
        ((), ["vs_median"]),
    ],
)
def test_a_classical_method_that_was_asked_for_must_be_beaten(
    baselines: tuple[BaselineComparison, ...], expected: list[str]
) -> None:
    assert failed(judge(scored(), GateConfig(beat_baselines=("median",)), baselines=baselines)) == expected
    assert judge(scored(), GateConfig(), baselines=baselines).promoted


def compared_by(values: st.SearchStrategy[float]) -> st.SearchStrategy[PairedDifference]:
    return st.builds(PairedDifference, challenger=values, champion=values, low=values, high=values, count=st.just(100))


def champions(values: st.SearchStrategy[float]) -> st.SearchStrategy[ChampionComparison]:
    met = st.builds(
        PairedComparison, confidence=st.just(0.95), pooled=compared_by(values), per_kind=by_kind_of(compared_by(values))
    )
    return st.just(ChampionComparison()) | st.builds(
        ChampionComparison, version=st.just("7"), comparison=st.none() | met, trouble=st.none() | st.just("gone")
    )


def by_kind_of(values: st.SearchStrategy[PairedDifference]) -> st.SearchStrategy[dict[str, PairedDifference]]:
    return st.dictionaries(st.sampled_from(KINDS), values)


TRIALS = st.none() | st.builds(
    SmokeTestResult,
    sha256=st.sampled_from(["a" * 64, None]),
    recorded_sha256=st.sampled_from(["a" * 64, "b" * 64, None]),
    difference=st.none() | ANY,
    one_image=st.none() | st.just("broken"),
    other_size=st.none() | st.just("broken"),
    latency_ms=st.none() | ANY,
    error=st.none() | st.just("broken"),
)
RIVALS = st.lists(
    st.builds(BaselineComparison, name=st.sampled_from(["median", "tv"]), mse=ANY, model_mse=ANY, images=st.just(9)),
    max_size=2,
).map(tuple)


GENEROUS = st.builds(
    GateConfig,
    max_val_mse=st.none() | st.floats(0.005, 0.2),
    max_val_mse_per_kind=st.dictionaries(st.sampled_from(KINDS), st.floats(0.005, 0.2)),
    beat_noisy_input=st.booleans(),
    clean_input=st.none() | st.floats(1e-5, 0.1),
    champion=st.none()
    | st.builds(ChampionPolicy, tolerance=st.floats(-0.05, 0.5), tolerance_per_kind=st.none() | st.floats(-0.05, 0.5)),
    smoke_test=st.none()
    | st.builds(
        SmokeTestPolicy,
        any_size=st.booleans(),
        max_latency_ms=st.none() | st.floats(2, 10),
        max_file_mib=st.none() | st.floats(2, 10),
        max_memory_mib=st.none() | st.floats(1000, 9000),
    ),
    beat_baselines=st.just(()) | st.just(("median", "tv")),
)
"""Policies that the evidence below meets."""
BETTER = compared(-0.2, -0.1, 0.004, 0.005)
BEATEN = tuple(BaselineComparison(name=name, mse=0.01, model_mse=0.004, images=9) for name in ("median", "tv"))
GOOD = GateInputs(
    scores=scored(), champion=against(BETTER, dict.fromkeys(KINDS, BETTER)), smoke_test=WORKS, baselines=BEATEN
)
COMPARED = ("challenger", "champion", "low", "high")
NUMBERS = (
    "scores.validation.pooled.mse",
    "scores.validation.per_kind.speckle.mse",
    "scores.validation.per_kind_nothing.speckle.mse",
    *(f"champion.comparison.pooled.{name}" for name in COMPARED),
    *(f"champion.comparison.per_kind.speckle.{name}" for name in COMPARED),
    *(f"smoke_test.{name}" for name in ("difference", "latency_ms", "file_mib", "memory_mib")),
    "baselines.1.mse",
    "baselines.1.model_mse",
)
"""Every number the gate may look at."""


def looked_at(path: str, policy: GateConfig) -> bool:
    if path.startswith("scores"):
        return policy.beat_noisy_input or "nothing" not in path
    if path.startswith("champion"):
        asked = policy.champion
        return asked is not None and ("per_kind" not in path or asked.tolerance_per_kind is not None)
    if path.startswith("smoke_test"):
        return (
            policy.smoke_test is not None
            and getattr(policy.smoke_test, path.replace("smoke_test.", "max_"), 0) is not None
        )
    return bool(policy.beat_baselines)


def spoiled(record: Any, path: list[str], value: float | None) -> Any:
    """Return evidence in which one number is another."""
    first, *rest = path
    if isinstance(record, tuple):
        place = int(first)
        return (*record[:place], spoiled(record[place], rest, value), *record[place + 1 :])
    inner = record[first] if isinstance(record, dict) else getattr(record, first)
    changed = spoiled(inner, rest, value) if rest else value
    return record | {first: changed} if isinstance(record, dict) else record.model_copy(update={first: changed})


@pytest.mark.parametrize("path", NUMBERS)
@settings(max_examples=40)
@given(GENEROUS, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_no_verdict_passes_with_one_score_that_is_not_finite(path: str, policy: GateConfig, value: float) -> None:
    """Whatever is asked, if all the others are good; a number that nobody asked for alone is not looked at."""
    assume(gate.evaluate_gate(GOOD, policy).promoted)
    verdict = gate.evaluate_gate(spoiled(GOOD, path.split("."), value), policy)
    assert verdict.promoted == (not looked_at(path, policy))


def lower(found: PairedDifference, gain: float) -> PairedDifference:
    return found.model_copy(update={"low": found.low - gain, "high": found.high - gain})


@given(st.data(), GENEROUS | POLICIES, st.floats(0, 1))
def test_improving_any_score_never_turns_a_promotion_into_a_refusal_whatever_is_asked(
    data: st.DataObject, policy: GateConfig, factor: float
) -> None:
    """One score after the other, of all that the gate sees, is made better."""
    model = data.draw(full(st.floats(0, 0.01)))
    scores = scored(data.draw(st.floats(0, 0.01)), model, data.draw(full(st.floats(0.005, 0.04))))
    finite = st.floats(-0.5, 0.5)
    champion = data.draw(champions(finite) | st.just(GOOD.champion))
    smoke_test = WORKS.model_copy(update={"latency_ms": data.draw(st.floats(0.1, 10)), "difference": 1e-7})
    baselines = tuple(
        BaselineComparison(name=name, mse=0.01, model_mse=data.draw(st.floats(0, 0.012)), images=9)
        for name in ("median", "tv")
    )
    if not judge(scores, policy, champion, smoke_test, baselines).promoted:
        return
    better = scored(
        scores.validation.pooled.mse * factor, model, {k: q.mse for k, q in scores.validation.per_kind_nothing.items()}
    )
    assert judge(better, policy, champion, smoke_test, baselines).promoted
    for kind in KINDS:
        better = scored(
            scores.validation.pooled.mse,
            model | {kind: model[kind] * factor},
            {k: q.mse for k, q in scores.validation.per_kind_nothing.items()},
        )
        assert judge(better, policy, champion, smoke_test, baselines).promoted
    if (met := champion.comparison) is not None:
        for kinds in ({}, *({kind: lower(found, 1 - factor)} for kind, found in met.per_kind.items())):
            pooled = met.pooled if kinds else lower(met.pooled, 1 - factor)
            better_met = met.model_copy(update={"pooled": pooled, "per_kind": met.per_kind | kinds})
            assert judge(
                scores, policy, champion.model_copy(update={"comparison": better_met}), smoke_test, baselines
            ).promoted
    for name in ("latency_ms", "file_mib", "memory_mib", "difference"):
        better_trial = smoke_test.model_copy(update={name: getattr(smoke_test, name) * factor})
        assert judge(scores, policy, champion, better_trial, baselines).promoted
    beating = tuple(baseline.model_copy(update={"model_mse": baseline.model_mse * factor}) for baseline in baselines)
    assert judge(scores, policy, champion, smoke_test, beating).promoted


@given(ANY, by_kind(ANY), by_kind(ANY), POLICIES)
def test_a_promotion_rests_on_finite_scores_that_are_all_there_and_within_their_limits(
    pooled: float, model: dict[str, float], nothing: dict[str, float], policy: GateConfig
) -> None:
    verdict = judge(scored(pooled, model, nothing), policy)
    assert verdict.promoted == (not verdict.reasons)
    if not verdict.promoted:
        return
    assert policy.max_val_mse is not None or policy.beat_noisy_input or policy.max_val_mse_per_kind
    if policy.max_val_mse is not None:
        assert math.isfinite(pooled)
        assert pooled <= policy.max_val_mse
    if policy.beat_noisy_input:
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
    if any(check.name.startswith("val_mse") for check in verdict.checks):
        assert verdict.reasons == tuple(check.reason for check in verdict.checks if not check.passed)


def test_a_kind_that_no_validation_image_got_refuses() -> None:
    """Its score is not a number; nothing is known about it."""
    verdict = judge(scored(model={**dict.fromkeys(KINDS, 0.001), "speckle": math.nan}), GateConfig())
    assert verdict.reasons == ("val_mse_speckle: nan is not a finite number (noisy input)",)
