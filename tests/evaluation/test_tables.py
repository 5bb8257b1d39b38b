from __future__ import annotations

from typing import Any, Literal

from dae.config.schema import GateConfig
from dae.evaluation.tables import kind_label, score_header, score_rows
from dae.promotion import gate
from dae.promotion.reports import approval_question, headline, verdict_markdown
from dae.promotion.schemas import Candidate, Decision, GateInputs, ModelVersion
from dae.schemas import Quality, Scores, SplitScores


def quality(mse: float, count: int = 50) -> Quality:
    return Quality(mse=mse, psnr=24.14, ssim=0.9126, count=count)


def scores() -> Scores:
    validation = SplitScores(
        pooled=quality(0.00351, 100),
        pooled_nothing=quality(0.039, 100),
        per_kind={"salt_and_pepper": quality(0.001), "poisson": quality(0.002)},
        per_kind_nothing={"salt_and_pepper": quality(0.0726), "poisson": quality(0.0013)},
    )
    test = validation.model_copy(update={"pooled": quality(0.00362), "per_kind": {"poisson": quality(0.0022)}})
    return Scores(model_uri="models:/m-1", validation=validation, test=test, images_per_second=1)


def version(
    policy: GateConfig, event: Literal["promoted", "refused", "forced"] | None = None, **fields: Any
) -> ModelVersion:
    """Return what became of version 7 under a policy without a smoke_test: what the gate says, or what a person made of it."""
    verdict = gate.evaluate_gate(
        GateInputs(scores=scores()), policy.model_copy(update={"smoke_test": None, "clean_input": None})
    )
    decision = Decision(event=event or verdict.word, verdict=verdict, who="ada", **fields)
    return ModelVersion(name="dae", version="7", model_uri="models:/m-1", decision=decision, aliases=())


def test_a_kind_is_named_in_prose() -> None:
    assert kind_label("salt_and_pepper") == "salt and pepper"


def test_the_table_has_a_line_for_each_kind_and_one_for_all() -> None:
    assert list(score_rows(scores())) == [
        ("salt and pepper", "50", "0.00100", "0.07260", "24.1 dB", "0.913", "-"),
        ("poisson", "50", "0.00200", "0.00130", "24.1 dB", "0.913", "0.00220"),
        ("all", "100", "0.00351", "0.03900", "24.1 dB", "0.913", "0.00362"),
    ]
    assert {len(row) for row in score_rows(scores())} == {len(score_header(scores()))}


def test_images_as_drawn_and_as_in_files_have_lines_of_their_own() -> None:
    split = SplitScores(
        pooled=quality(0.003, 400),
        pooled_nothing=quality(0.03, 400),
        per_kind={
            "gaussian": quality(0.004, 100),
            "poisson": quality(0.001, 100),
            "gaussian_8bit": quality(0.006, 200),
        },
        per_kind_nothing={
            "gaussian": quality(0.05, 100),
            "poisson": quality(0.001, 100),
            "gaussian_8bit": quality(0.04, 200),
        },
    )
    found = list(score_rows(Scores(model_uri="models:/m-1", validation=split, test=split, images_per_second=1)))
    assert [row[:4] for row in found][2:] == [
        ("gaussian, 8-bit", "200", "0.00600", "0.04000"),
        ("all, as drawn", "200", "0.00250", "0.02550"),
        ("all, 8-bit", "200", "0.00600", "0.04000"),
        ("all", "400", "0.00300", "0.03000"),
    ]
    assert [row[6] for row in found][3] == "0.00250"


def test_scores_with_a_hole_are_reported_with_a_hole() -> None:
    whole = scores()
    holed = whole.validation.model_copy(update={"per_kind_nothing": {}})
    found = list(score_rows(whole.model_copy(update={"validation": holed})))
    assert [row[3] for row in found] == ["-", "-", "0.03900"]


def test_the_headline_of_a_promotion_names_the_version() -> None:
    assert headline(version(GateConfig(beat_noisy_input=False))) == "Promoted: dae version 7 is the champion."


def test_the_headline_of_a_refusal_says_that_the_champion_stays() -> None:
    text = headline(version(GateConfig()))
    assert text.startswith("Refused: dae version 7 is registered")
    assert "champion stays" in text


def test_the_headlines_of_force_of_a_dry_run_and_of_a_persons_refusal() -> None:
    forced = headline(version(GateConfig(), "forced", reason="demo on Friday"))
    assert forced.startswith("FORCED by ada: dae version 7 is the champion, though the gate refused it")
    assert "demo on Friday" in forced
    assert "would be refused; no alias was moved" in headline(version(GateConfig(), dry_run=True))
    by_hand = headline(version(GateConfig(beat_noisy_input=False), "refused", reason="not approved by ada: blurred"))
    assert by_hand.endswith("The gate lets it pass, but: not approved by ada: blurred.")


def test_the_question_to_a_person_shows_the_verdict() -> None:
    candidate = Candidate(name="dae", version="7", run_id="r", model_uri="models:/m-1")
    verdict = version(GateConfig()).verdict.model_copy(update={"champion": "3"})
    text = approval_question(candidate, verdict, GateConfig(force="demo on Friday"))
    assert text.startswith("May dae version 7 become the champion in place of version 3?")
    assert "**forced**: demo on Friday" in text
    assert "- **failed**: val_mse_poisson" in text


def test_the_markdown_holds_the_verdict_every_check_and_the_table() -> None:
    refused = version(GateConfig())
    text = verdict_markdown(refused, scores())
    assert text.startswith(f"# {headline(refused)}\n")
    assert "- passed: val_mse: 0.00351 is at most 0.00690" in text
    assert "- **failed**: val_mse_poisson: 0.00200 is above 0.00130 (noisy input)" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(list(score_rows(scores())))
    assert {line.count("|") for line in table} == {len(score_header(scores())) + 1}


def test_the_markdown_of_an_empty_policy_says_why_nothing_was_promoted() -> None:
    text = verdict_markdown(version(GateConfig(max_val_mse=None, beat_noisy_input=False)), scores())
    assert "- **failed**: the policy has no check of quality" in text
