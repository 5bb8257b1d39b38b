"""The result of a run in words, as Markdown for Prefect's pages and CI, and as JUnit XML; and its stored record."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from mlflow.exceptions import MlflowException
from pydantic import Field

from dae import storage
from dae.config.schema import ConfigError, GateConfig
from dae.evaluation.tables import SCORES_HEADER, markdown_table, score_rows
from dae.promotion.schemas import Candidate, GateResult, ModelVersion, PipelineResult
from dae.schemas import FrozenModel, Scores
from dae.tracking.client import TrackingError, connect, get_run
from dae.tracking.run_logging import log_text

Ending = Literal["promoted", "refused", "completed", "failed", "cancelled", "timed out"]
RESULT = "result.json"
"""What a training run ended with, as `dae.promotion.schemas.PipelineResult`."""


class RunOutcome(FrozenModel):
    """How a run ended.

    Attributes
    ----------
    ending : str
        ``completed`` for a run that judges nothing.
    message : str
        What there is to say of it where there is no `result`.
    result : PipelineResult or None
        Of a run that came to a verdict.
    links : dict
        From a name to an address.
    """

    name: str
    ending: Ending
    message: str = ""
    result: PipelineResult | None = None
    links: dict[str, str] = Field({})
    seconds: float = 0.0


def make_outcome(result: PipelineResult, links: dict[str, str], seconds: float) -> RunOutcome:
    """Return the outcome of a run that came to a verdict."""
    ending: Ending = "refused" if result.version.decision.event == "refused" else "promoted"
    return RunOutcome(name=result.run_name, ending=ending, result=result, links=links, seconds=seconds)


def require_writable(*files: Path | None) -> None:
    """Refuse files that could not be written in the end, before anything long begins.

    Raises
    ------
    ConfigError
        Naming the file.
    """
    for file in filter(None, files):
        there = file.is_file() if file.exists() else file.parent.is_dir()
        if not there or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise ConfigError(f"{file} must be a file that can be written, in a folder that is there")


def write_outcome(outcome: RunOutcome, summary: Path | None, junit: Path | None) -> None:
    """Append the outcome to a Markdown file, and write a JUnit file of it, where they are asked for."""
    if summary is not None:
        with summary.open("a", encoding="utf-8") as file:
            file.write(_printable(outcome_markdown(outcome)))
    if junit is not None:
        storage.write_text(junit, junit_xml(outcome))


def outcome_markdown(outcome: RunOutcome) -> str:
    """Return the outcome as Markdown: one sentence, every check, the scores, where to look."""
    links = " · ".join(f"[{name}]({address})" for name, address in outcome.links.items())
    if outcome.result is None:
        lead = f"# {outcome.name}: {outcome.ending}\n\n{outcome.message}\n"
    else:
        lead = verdict_markdown(outcome.result.version, outcome.result.scores)
    return f"{lead}\n{links}\n\n" if links else f"{lead}\n"


def junit_xml(outcome: RunOutcome) -> str:
    """Return the outcome as JUnit XML: each check of the gate is a test case; a run without a verdict is one that broke."""
    suite = ElementTree.Element("testsuite", name=outcome.name, time=f"{outcome.seconds:.3f}")
    _properties(suite, outcome)
    made = list_checks(outcome.result.version.verdict) if outcome.result else []
    for number, (passed, reason) in enumerate(made, 1):
        name, _, _ = reason.partition(":")
        case = ElementTree.SubElement(suite, "testcase", classname="gate", name=f"{number}. {name}", time="0")
        if not passed:
            ElementTree.SubElement(case, "failure", message=reason, type="refused")
    decided = ElementTree.SubElement(suite, "testcase", classname="run", name="outcome", time=f"{outcome.seconds:.3f}")
    _decide(decided, outcome)
    cases = suite.findall("testcase")
    for tag in ("failure", "error", "skipped"):
        count = sum(case.find(tag) is not None for case in cases)
        suite.set({"failure": "failures", "error": "errors", "skipped": "skipped"}[tag], str(count))
    suite.set("tests", str(len(cases)))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    for element in suites.iter():
        element.text = _printable(element.text) if element.text else None
        element.attrib.update({key: _printable(value) for key, value in element.attrib.items()})
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """Return a text with what XML and UTF-8 cannot hold replaced: colours of a terminal, bytes of a strange file name."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _decide(case: ElementTree.Element, outcome: RunOutcome) -> None:
    """Say in a test case how the run ended; a refusal without a failed check, as by a person, is a failure of it alone."""
    said = headline(outcome.result.version) if outcome.result else outcome.message
    if outcome.ending == "refused":
        ElementTree.SubElement(case, "failure", message=said, type="refused")
    elif outcome.ending in ("failed", "cancelled", "timed out"):
        ElementTree.SubElement(case, "error", message=said or outcome.ending, type=outcome.ending)
    ElementTree.SubElement(case, "system-out").text = said


def _properties(suite: ElementTree.Element, outcome: RunOutcome) -> None:
    told = {"outcome": outcome.ending, **outcome.links}
    if (result := outcome.result) is not None:
        told |= {"run_id": result.run_id, "model": result.version.name, "version": result.version.version}
        told |= {"val_mse": f"{result.scores.validation.pooled.mse:.6f}", "decided_by": result.version.decision.who}
    element = ElementTree.SubElement(suite, "properties")
    for name, value in told.items():
        ElementTree.SubElement(element, "property", name=name, value=value)


def headline(version: ModelVersion) -> str:
    """Return the outcome in one sentence."""
    decision, named = version.decision, f"{version.name} version {version.version}"
    if decision.dry_run:
        return f"Dry run: {named} would be {decision.event}; no alias was moved."
    if decision.event == "forced":
        return (
            f"FORCED by {decision.who}: {named} is the champion, though the gate refused it. Reason: {decision.reason}"
        )
    if decision.promoted:
        return f"Promoted: {named} is the champion."
    stays = f"Refused: {named} is registered, and the champion stays as it was."
    return f"{stays} The gate lets it pass, but: {decision.reason}." if decision.verdict.promoted else stays


def list_checks(verdict: GateResult) -> list[tuple[bool, str]]:
    """Return each check as whether it passed and its reason, and reasons that belong to none."""
    made = [(check.passed, check.reason) for check in verdict.checks]
    return made + [(False, reason) for reason in verdict.reasons if (False, reason) not in made]


def approval_question(candidate: Candidate, verdict: GateResult, policy: GateConfig) -> str:
    """Return, as Markdown, what a person is asked before a version is promoted."""
    against = f" in place of version {verdict.champion}" if verdict.champion else ""
    lead = f"May {candidate.name} version {candidate.version} become the champion{against}?"
    forced = [] if verdict.promoted else ["", f"The gate refuses it; it would be **forced**: {policy.force}"]
    return "\n".join([lead, *forced, "", *_bullets(verdict)])


def _bullets(verdict: GateResult) -> list[str]:
    return [f"- {'passed' if passed else '**failed**'}: {reason}" for passed, reason in list_checks(verdict)]


def verdict_markdown(version: ModelVersion, scores: Scores) -> str:
    """Return the outcome, the checks and the scores as Markdown."""
    parts = [
        f"# {headline(version)}",
        "",
        *_bullets(version.verdict),
        "",
        markdown_table([SCORES_HEADER, *score_rows(scores)]),
        "",
    ]
    return "\n".join(parts)


def log_result(result: PipelineResult) -> None:
    """Log what a training run ends with. A score of no images is NaN, which pydantic's own JSON would make null."""
    log_text(result.run_id, json.dumps(result.model_dump(mode="json"), indent=2), RESULT)


def read_result(run_id: str) -> PipelineResult:
    """Return what a training run ended with.

    Raises
    ------
    TrackingError
        If it has not come to its end, or there is no such run.
    """
    client = connect()
    get_run(client, run_id)
    try:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(client.download_artifacts(run_id, RESULT, folder)).read_text(encoding="utf-8")
    except (MlflowException, OSError) as error:
        raise TrackingError(f"run {run_id} holds no {RESULT}: {error}") from error
    return PipelineResult.model_validate_json(text)
