"""How a run ended, for a machine that started it: as Markdown for a job's summary, and as JUnit XML."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from pydantic import Field

from dae import storage
from dae.config.schema import ConfigError
from dae.evaluation import tables
from dae.promotion.schemas import PipelineResult
from dae.schemas import Frozen

Ending = Literal["promoted", "refused", "completed", "failed", "cancelled", "timed out"]


class Outcome(Frozen):
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


def of(result: PipelineResult, links: dict[str, str], seconds: float) -> Outcome:
    """Return the outcome of a run that came to a verdict."""
    ending: Ending = "refused" if result.version.decision.event == "refused" else "promoted"
    return Outcome(name=result.run_name, ending=ending, result=result, links=links, seconds=seconds)


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


def write(outcome: Outcome, summary: Path | None, junit: Path | None) -> None:
    """Append the outcome to a Markdown file, and write a JUnit file of it, where they are asked for."""
    if summary is not None:
        with summary.open("a", encoding="utf-8") as file:
            file.write(_printable(markdown(outcome)))
    if junit is not None:
        storage.write_text(junit, junit_xml(outcome))


def markdown(outcome: Outcome) -> str:
    """Return the outcome as Markdown: one sentence, every check, the scores, where to look."""
    links = " · ".join(f"[{name}]({address})" for name, address in outcome.links.items())
    if outcome.result is None:
        lead = f"# {outcome.name}: {outcome.ending}\n\n{outcome.message}\n"
    else:
        lead = tables.markdown(outcome.result.version, outcome.result.scores)
    return f"{lead}\n{links}\n\n" if links else f"{lead}\n"


def junit_xml(outcome: Outcome) -> str:
    """Return the outcome as JUnit XML: each check of the gate is a test case; a run without a verdict is one that broke."""
    suite = ElementTree.Element("testsuite", name=outcome.name, time=f"{outcome.seconds:.3f}")
    _properties(suite, outcome)
    checks = tables.checks(outcome.result.version.verdict) if outcome.result else []
    for number, (passed, reason) in enumerate(checks, 1):
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


def _decide(case: ElementTree.Element, outcome: Outcome) -> None:
    """Say in a test case how the run ended; a refusal without a failed check, as by a person, is a failure of it alone."""
    said = tables.headline(outcome.result.version) if outcome.result else outcome.message
    if outcome.ending == "refused":
        ElementTree.SubElement(case, "failure", message=said, type="refused")
    elif outcome.ending in ("failed", "cancelled", "timed out"):
        ElementTree.SubElement(case, "error", message=said or outcome.ending, type=outcome.ending)
    ElementTree.SubElement(case, "system-out").text = said


def _properties(suite: ElementTree.Element, outcome: Outcome) -> None:
    told = {"outcome": outcome.ending, **outcome.links}
    if (result := outcome.result) is not None:
        told |= {"run_id": result.run_id, "model": result.version.name, "version": result.version.version}
        told |= {"val_mse": f"{result.scores.validation.pooled.mse:.6f}", "decided_by": result.version.decision.who}
    element = ElementTree.SubElement(suite, "properties")
    for name, value in told.items():
        ElementTree.SubElement(element, "property", name=name, value=value)
