from __future__ import annotations

from dae.config import GateConfig
from dae.gate import judge
from dae.records import ModelVersion, Quality, Scores, SplitScores
from dae.report import HEADER, headline, label, markdown, rows


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


def version(policy: GateConfig) -> ModelVersion:
    return ModelVersion(name="dae", version="7", model_uri="models:/m-1", verdict=judge(scores(), policy), aliases=())


def test_a_kind_is_named_in_prose() -> None:
    assert label("salt_and_pepper") == "salt and pepper"


def test_the_table_has_a_line_for_each_kind_and_one_for_all() -> None:
    assert list(rows(scores())) == [
        ("salt and pepper", "50", "0.00100", "0.07260", "24.1 dB", "0.913", "-"),
        ("poisson", "50", "0.00200", "0.00130", "24.1 dB", "0.913", "0.00220"),
        ("all", "100", "0.00351", "0.03900", "24.1 dB", "0.913", "0.00362"),
    ]
    assert {len(row) for row in rows(scores())} == {len(HEADER)}


def test_scores_with_a_hole_are_reported_with_a_hole() -> None:
    whole = scores()
    holed = whole.validation.model_copy(update={"per_kind_nothing": {}})
    found = list(rows(whole.model_copy(update={"validation": holed})))
    assert [row[3] for row in found] == ["-", "-", "0.03900"]


def test_the_headline_of_a_promotion_names_the_version() -> None:
    assert headline(version(GateConfig(beat_nothing=False))) == "Promoted: dae version 7 is the champion."


def test_the_headline_of_a_refusal_says_that_the_champion_stays() -> None:
    text = headline(version(GateConfig()))
    assert text.startswith("Refused: dae version 7 is registered")
    assert "champion stays" in text


def test_the_markdown_holds_the_verdict_every_check_and_the_table() -> None:
    refused = version(GateConfig())
    text = markdown(refused, scores())
    assert text.startswith(f"# {headline(refused)}\n")
    assert "- passed: val_mse: 0.00351 is at most 0.00690" in text
    assert "- **failed**: val_mse_poisson: 0.00200 is above 0.00130 (doing nothing)" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(list(rows(scores())))
    assert {line.count("|") for line in table} == {len(HEADER) + 1}


def test_the_markdown_of_an_empty_policy_says_why_nothing_was_promoted() -> None:
    text = markdown(version(GateConfig(max_val_mse=None, beat_nothing=False)), scores())
    assert "- **failed**: the policy asks for nothing" in text
