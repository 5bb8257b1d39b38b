"""How a run ended, written for a CI system: as JUnit XML and as Markdown, by the library and by ``dae train``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dae.cli import app
from dae.config.schema import ConfigError
from dae.promotion import reports
from dae.promotion.reports import Ending, RunOutcome
from dae.promotion.schemas import PipelineResult
from dae.tracking.client import connect

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
TINY = ["data.limit=300", "data.validation=60", "data.test_limit=60", "train.epochs=1", "model.width=8"]
BAD, LINKS = 0.02, {"MLflow": "http://mlflow/runs/1", "Prefect": "http://prefect/runs/2"}
Make = Callable[..., PipelineResult]


def suite_of(text: str) -> ElementTree.Element:
    """Return the one suite of a JUnit file; its counts are those of its cases."""
    (suite,) = ElementTree.fromstring(text)
    cases = suite.findall("testcase")
    assert suite.get("tests") == str(len(cases))
    for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert suite.get(name) == str(sum(case.find(tag) is not None for case in cases))
    return suite


def faults(suite: ElementTree.Element) -> list[tuple[str | None, str, str | None]]:
    """Return what is wrong by name of the case, kind and type."""
    return [
        (case.get("name"), fault.tag, fault.get("type"))
        for case in suite.findall("testcase")
        for fault in case
        if fault.tag in ("failure", "error")
    ]


def properties(suite: ElementTree.Element) -> dict[str | None, str | None]:
    return {each.get("name"): each.get("value") for each in suite.iter("property")}


def test_a_promotion_is_a_suite_without_a_fault_and_a_case_for_each_check(make_result: Make) -> None:
    result = make_result()
    outcome = reports.make_outcome(result, LINKS, 12.5)
    assert outcome.ending == "promoted"
    suite = suite_of(reports.junit_xml(outcome))
    assert (suite.get("name"), suite.get("time")) == (result.run_name, "12.500")
    checks = [case.get("name") for case in suite.findall("testcase") if case.get("classname") == "gate"]
    assert len(checks) == len(result.version.verdict.checks) > 1
    assert faults(suite) == []
    assert suite.findtext("testcase[@name='outcome']/system-out") == "Promoted: dae version 7 is the champion."
    told = {"outcome": "promoted", "run_id": "0" * 32, "model": "dae", "version": "7", "val_mse": "0.002000"}
    assert properties(suite) == told | LINKS | {"decided_by": "ada"}


def test_a_refusal_is_a_failure_of_the_check_and_of_the_outcome(make_result: Make) -> None:
    outcome = reports.make_outcome(make_result(mse=BAD), {}, 1)
    suite = suite_of(reports.junit_xml(outcome))
    assert outcome.ending == properties(suite)["outcome"] == "refused"
    (check, *_), *others = faults(suite)
    assert check is not None
    assert others == [("outcome", "failure", "refused")]
    assert "is above 0.0069" in str(suite.find(f"testcase[@name='{check}']/failure").get("message"))  # type: ignore[union-attr]


def test_a_refusal_by_a_person_is_a_failure_of_the_outcome_alone(make_result: Make) -> None:
    result = make_result(event="refused", reason="not approved by grace: blurred")
    suite = suite_of(reports.junit_xml(reports.make_outcome(result, {}, 1)))
    assert faults(suite) == [("outcome", "failure", "refused")]
    assert "not approved by grace: blurred" in str(suite.findtext("testcase[@name='outcome']/system-out"))


def test_a_forced_promotion_is_no_failure_of_the_run(make_result: Make) -> None:
    outcome = reports.make_outcome(make_result(mse=BAD, event="forced", reason="the data moved"), {}, 1)
    assert outcome.ending == "promoted"
    assert ("outcome", "failure", "refused") not in faults(suite_of(reports.junit_xml(outcome)))


@pytest.mark.parametrize("ending", ["failed", "cancelled", "timed out"])
def test_a_run_that_came_to_no_verdict_is_an_error(ending: Ending) -> None:
    said = "DataError: <nowhere> & \"nothing\"\nbut 'trouble'"
    suite = suite_of(reports.junit_xml(RunOutcome(name="mnist", ending=ending, message=said)))
    assert faults(suite) == [("outcome", "error", ending)]
    assert suite.findtext("testcase/system-out") == said
    silent = suite_of(reports.junit_xml(RunOutcome(name="mnist", ending=ending)))
    assert silent.find("testcase/error").get("message") == ending  # type: ignore[union-attr]


def test_a_run_that_judges_nothing_and_ends_well_is_a_success() -> None:
    suite = suite_of(reports.junit_xml(RunOutcome(name="sweep", ending="completed", message="0 closed")))
    assert faults(suite) == []
    assert properties(suite) == {"outcome": "completed"}


def test_a_score_of_no_images_is_told_as_it_is(make_result: Make) -> None:
    suite = suite_of(reports.junit_xml(reports.make_outcome(make_result(mse=math.nan), {}, 1)))
    assert properties(suite)["val_mse"] == "nan"
    assert properties(suite)["outcome"] == "refused"


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn"))))
def test_whatever_a_run_says_can_be_read_from_the_xml(message: str) -> None:
    suite = suite_of(reports.junit_xml(RunOutcome(name=message, ending="failed", message=message)))
    assert (suite.get("name"), suite.findtext("testcase/system-out") or "") == (message, message)


@pytest.mark.parametrize("message", ["\x1b[31mred\x1b[0m", "a\x00b", "a file called \udcff.png"])
def test_characters_that_xml_has_no_place_for_break_nothing(message: str, tmp_path: Path) -> None:
    summary, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    reports.write_outcome(RunOutcome(name="mnist", ending="failed", message=message), summary, junit)
    assert faults(suite_of(junit.read_text(encoding="utf-8"))) == [("outcome", "error", "failed")]
    assert summary.read_text(encoding="utf-8").startswith("# mnist: failed")


def test_markdown_is_appended_and_junit_is_written_anew(tmp_path: Path, make_result: Make) -> None:
    summary, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    summary.write_text("# Before\n", encoding="utf-8")
    reports.write_outcome(reports.make_outcome(make_result(), LINKS, 1), summary, junit)
    reports.write_outcome(RunOutcome(name="mnist", ending="failed", message="no such path: ü"), summary, junit)
    text = summary.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("# ")]
    assert lines == ["# Before", "# Promoted: dae version 7 is the champion.", "# mnist: failed"]
    assert "\n- passed: val_mse" in text
    assert "\n| noise | images | MSE |" in text
    assert "\n[MLflow](http://mlflow/runs/1) · [Prefect](http://prefect/runs/2)\n" in text
    assert text.endswith("no such path: ü\n\n")
    assert faults(suite_of(junit.read_text(encoding="utf-8"))) == [("outcome", "error", "failed")]


def test_only_what_is_asked_for_is_written(tmp_path: Path) -> None:
    reports.write_outcome(RunOutcome(name="mnist", ending="failed"), None, None)
    assert not list(tmp_path.iterdir())
    reports.write_outcome(RunOutcome(name="mnist", ending="failed"), None, tmp_path / "junit.xml")
    assert [each.name for each in tmp_path.iterdir()] == ["junit.xml"]


def test_files_that_can_be_written_are_let_pass_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("before")
    reports.require_writable(None, tmp_path / "there.md", tmp_path / "new.xml")
    assert [each.name for each in tmp_path.iterdir()] == ["there.md"]
    assert (tmp_path / "there.md").read_text() == "before"


@pytest.mark.parametrize("place", ["nowhere/junit.xml", ".", "file/junit.xml"])
def test_a_file_that_could_not_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="must be a file that can be written") as refused:
        reports.require_writable(None, tmp_path / place)
    assert str(tmp_path / place) in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="must be a file that can be written"):
        reports.require_writable(tmp_path / "junit.xml")


# dae train


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "summary.md", tmp_path / "junit.xml"


def train(files: tuple[Path, Path], *settings: str) -> tuple[int, str, str]:
    arguments = ["train", "--config", str(SMOKE), "--summary", str(files[0]), "--junit", str(files[1])]
    arguments += [part for value in (*TINY, "gate.smoke_test=null", *settings) for part in ("--set", value)]
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_train_writes_the_verdict(trained: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAE_HOME", str(trained[0]))
    files = trained[0] / "summary.md", trained[0] / "junit.xml"
    text, suite = files[0].read_text(encoding="utf-8"), suite_of(files[1].read_text(encoding="utf-8"))
    assert text.startswith("# Refused: dae-smoke version 2 is registered")
    assert "**failed**: val_mse" in text
    assert [name for name, _, _ in faults(suite)][-1] == "outcome"
    told = properties(suite)
    assert (told["outcome"], told["model"], told["version"]) == ("refused", "dae-smoke", "2")
    assert connect().get_run(str(told["run_id"])).info.status == "FINISHED"
    assert str(told["run_id"]) in str(told["MLflow"])
    assert float(suite.get("time", "")) > 0


@pytest.mark.usefixtures("prefect_server", "mlflow_store")
def test_train_writes_how_it_failed(files: tuple[Path, Path]) -> None:
    code, out, err = train(files, "data.source=nowhere", "tracking.run_name=lost")
    assert code == 1, out + err
    text, suite = files[0].read_text(encoding="utf-8"), suite_of(files[1].read_text(encoding="utf-8"))
    assert text.startswith("# lost: failed\n")
    assert "found no such path" in text
    assert faults(suite) == [("outcome", "error", "failed")]
    assert "found no such path" in str(suite.findtext("testcase/system-out"))
    assert "found no such path" in err


def test_train_refuses_files_it_could_not_write_before_anything_else(tmp_path: Path) -> None:
    code, out, err = train((tmp_path / "none" / "summary.md", tmp_path / "junit.xml"))
    assert (code, out) == (2, "")
    assert "none/summary.md must be a file that can be written" in err.replace("\n", "")
    assert not list(tmp_path.iterdir())


def test_a_configuration_that_is_refused_is_no_outcome(files: tuple[Path, Path]) -> None:
    assert train(files, "train.epochs=0")[0] == 2
    assert not files[0].exists()
    assert not files[1].exists()
