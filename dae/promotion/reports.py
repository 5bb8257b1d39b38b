"""The result of a run as Markdown for Prefect and CI, as JUnit XML, and as a stored record."""

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
from dae.evaluation.tables import markdown_table, score_header, score_rows
from dae.promotion.schemas import Candidate, GateResult, ModelVersion, PipelineResult
from dae.schemas import FrozenModel, Scores
from dae.tracking.client import TrackingError, connect, get_run
from dae.tracking.run_logging import log_text

Ending = Literal["promoted", "refused", "completed", "failed", "cancelled", "timed out"]
RESULT = "result.json"
"""The result of a training run, as `dae.promotion.schemas.PipelineResult`."""


class RunOutcome(FrozenModel):
    """How a run ended.

    Attributes
    ----------
    ending : str
        ``completed`` for a run without a gate result.
    message : str
        The outcome in words if there is no `result`.
    result : PipelineResult or None
        Of a run with a gate result.
    links : dict
        From the name of a page to its address.
    """

    name: str
    ending: Ending
    message: str = ""
    result: PipelineResult | None = None
    links: dict[str, str] = Field({})
    seconds: float = 0.0


def make_outcome(result: PipelineResult, links: dict[str, str], seconds: float) -> RunOutcome:
    """Return the outcome of a run with a gate result."""
    ending: Ending = "refused" if result.version.decision.event == "refused" else "promoted"
    return RunOutcome(name=result.run_name, ending=ending, result=result, links=links, seconds=seconds)


def require_writable(*files: Path | None) -> None:
    """Refuse files that cannot be written, before a long run starts.

    Raises
    ------
    ConfigError
        Naming the file.
    """
    for file in filter(None, files):
        is_place = file.is_file() if file.exists() else file.parent.is_dir()
        if not is_place or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise ConfigError(f"{file} must be a file that can be written, in a folder that exists")


def write_outcome(outcome: RunOutcome, summary: Path | None, junit: Path | None) -> None:
    """Append the outcome to a Markdown file and write it to a JUnit file; None skips a file."""
    if summary is not None:
        with summary.open("a", encoding="utf-8") as file:
            file.write(_printable(outcome_markdown(outcome)))
    if junit is not None:
        storage.write_text(junit, junit_xml(outcome))


def outcome_markdown(outcome: RunOutcome) -> str:
    """Return the outcome as Markdown: one sentence, all checks, the scores, and links."""
    links = " · ".join(f"[{name}]({address})" for name, address in outcome.links.items())
    if outcome.result is None:
        lead = f"# {outcome.name}: {outcome.ending}\n\n{outcome.message}\n"
    else:
        lead = verdict_markdown(outcome.result.version, outcome.result.scores)
    return f"{lead}\n{links}\n\n" if links else f"{lead}\n"


def junit_xml(outcome: RunOutcome) -> str:
    """Return the outcome as JUnit XML. Each check of the gate is a test case, and the outcome of the run is another one."""
    suite = ElementTree.Element("testsuite", name=outcome.name, time=f"{outcome.seconds:.3f}")
    _properties(suite, outcome)
    checks = list_checks(outcome.result.version.verdict) if outcome.result else []
    for number, (passed, reason) in enumerate(checks, 1):
        name, _, _ = reason.partition(":")
        case = ElementTree.SubElement(suite, "testcase", classname="gate", name=f"{number}. {name}", time="0")
        if not passed:
            ElementTree.SubElement(case, "failure", message=reason, type="refused")
    run_case = ElementTree.SubElement(suite, "testcase", classname="run", name="outcome", time=f"{outcome.seconds:.3f}")
    _add_ending(run_case, outcome)
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
    """Replace the characters that XML or UTF-8 cannot hold, such as terminal colours or the bytes of a file name."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _add_ending(case: ElementTree.Element, outcome: RunOutcome) -> None:
    """Add how the run ended to its test case. A refusal by a person is a failure of this case, without a failed check."""
    message = headline(outcome.result.version) if outcome.result else outcome.message
    if outcome.ending == "refused":
        ElementTree.SubElement(case, "failure", message=message, type="refused")
    elif outcome.ending in ("failed", "cancelled", "timed out"):
        ElementTree.SubElement(case, "error", message=message or outcome.ending, type=outcome.ending)
    ElementTree.SubElement(case, "system-out").text = message


def _properties(suite: ElementTree.Element, outcome: RunOutcome) -> None:
    properties = {"outcome": outcome.ending, **outcome.links}
    if (result := outcome.result) is not None:
        properties |= {"run_id": result.run_id, "model": result.version.name, "version": result.version.version}
        properties |= {
            "val_mse": f"{result.scores.validation.pooled.mse:.6f}",
            "decided_by": result.version.decision.who,
        }
    element = ElementTree.SubElement(suite, "properties")
    for name, value in properties.items():
        ElementTree.SubElement(element, "property", name=name, value=value)


def headline(version: ModelVersion) -> str:
    """Return the outcome in one sentence."""
    decision, label = version.decision, f"{version.name} version {version.version}"
    if decision.dry_run:
        return f"Dry run: {label} would be {decision.event}; no alias was moved."
    if decision.event == "forced":
        return (
            f"FORCED by {decision.who}: {label} is the champion, though the gate refused it. Reason: {decision.reason}"
        )
    if decision.promoted:
        return f"Promoted: {label} is the champion."
    refusal = f"Refused: {label} is registered, and the champion stays as it was."
    return f"{refusal} The gate lets it pass, but: {decision.reason}." if decision.verdict.promoted else refusal


def list_checks(gate_result: GateResult) -> list[tuple[bool, str]]:
    """Return whether each check passed, with its reason, and then the reasons that belong to no check."""
    checks = [(check.passed, check.reason) for check in gate_result.checks]
    return checks + [(False, reason) for reason in gate_result.reasons if (False, reason) not in checks]


def approval_question(candidate: Candidate, gate_result: GateResult, policy: GateConfig) -> str:
    """Return, as Markdown, the question to a person before a version is promoted."""
    against = f" in place of version {gate_result.champion}" if gate_result.champion else ""
    lead = f"May {candidate.name} version {candidate.version} become the champion{against}?"
    forced = [] if gate_result.promoted else ["", f"The gate refuses it; it would be **forced**: {policy.force}"]
    return "\n".join([lead, *forced, "", *_bullets(gate_result)])


def _bullets(gate_result: GateResult) -> list[str]:
    return [f"- {'passed' if passed else '**failed**'}: {reason}" for passed, reason in list_checks(gate_result)]


def verdict_markdown(version: ModelVersion, scores: Scores) -> str:
    """Return the outcome, the checks and the scores of a version as Markdown."""
    parts = [
        f"# {headline(version)}",
        "",
        *_bullets(version.verdict),
        "",
        markdown_table([score_header(scores), *score_rows(scores)]),
        "",
    ]
    return "\n".join(parts)


def log_result(result: PipelineResult) -> None:
    """Log the result of a training run. A score of no images is NaN, which pydantic would write as null."""
    log_text(result.run_id, json.dumps(result.model_dump(mode="json"), indent=2), RESULT)


def read_result(run_id: str) -> PipelineResult:
    """Return the result of a training run.

    Raises
    ------
    TrackingError
        If it has not finished, or there is no such run.
    """
    client = connect()
    get_run(client, run_id)
    try:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(client.download_artifacts(run_id, RESULT, folder)).read_text(encoding="utf-8")
    except (MlflowException, OSError) as error:
        raise TrackingError(f"run {run_id} holds no {RESULT}: {error}") from error
    return PipelineResult.model_validate_json(text)
