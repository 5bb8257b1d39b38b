"""The outcome of a run in words: for the terminal, and as Markdown for Prefect's UI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dae.config.schema import GateConfig
from dae.promotion.schemas import Candidate, ModelVersion, Verdict
from dae.schemas import EIGHT_BIT, Quality, Scores

Row = tuple[str, ...]
FORMS = {"drawn": "all, as drawn", "8bit": "all, 8-bit"}
HEADER: Row = ("noise", "images", "MSE", "MSE, nothing done", "PSNR", "SSIM", "test MSE")


def label(kind: str) -> str:
    """Return a kind's name as prose.

    Examples
    --------
    >>> label("salt_and_pepper"), label("poisson_8bit")
    ('salt and pepper', 'poisson, 8-bit')
    """
    in_file = ", 8-bit" if kind.endswith(EIGHT_BIT) else ""
    return kind.removesuffix(EIGHT_BIT).replace("_", " ") + in_file


def mse(value: float | None) -> str:
    """Return a mean squared error with five digits, ``-`` where there is none."""
    return "-" if value is None else f"{value:.5f}"


def rows(scores: Scores) -> Iterator[Row]:
    """Yield a line of text cells for each kind of noise, and one for all of them: validation, then the test MSE."""
    validation, test = scores.validation, scores.test
    groups: list[tuple[str, Quality, Quality | None, Quality | None]] = [
        (label(kind), validation.per_kind[kind], validation.per_kind_nothing.get(kind), test.per_kind.get(kind))
        for kind in validation.per_kind
    ]
    tested = test.per_form()
    for form, (restored, left) in validation.per_form().items():
        groups.append((FORMS[form], restored, left, tested[form][0] if form in tested else None))
    groups.append(("all", validation.pooled, validation.pooled_nothing, test.pooled))
    for name, model, nothing, held_out in groups:
        yield (
            name,
            str(model.count),
            f"{model.mse:.5f}",
            f"{nothing.mse:.5f}" if nothing else "-",
            f"{model.psnr:.1f} dB",
            f"{model.ssim:.3f}",
            f"{held_out.mse:.5f}" if held_out else "-",
        )


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


def checks(verdict: Verdict) -> list[tuple[bool, str]]:
    """Return each check as whether it passed and its reason, and reasons that belong to none."""
    made = [(check.passed, check.reason) for check in verdict.checks]
    return made + [(False, reason) for reason in verdict.reasons if (False, reason) not in made]


def question(candidate: Candidate, verdict: Verdict, policy: GateConfig) -> str:
    """Return, as Markdown, what a person is asked before a version is promoted."""
    against = f" in place of version {verdict.champion}" if verdict.champion else ""
    lead = f"May {candidate.name} version {candidate.version} become the champion{against}?"
    forced = [] if verdict.promoted else ["", f"The gate refuses it; it would be **forced**: {policy.force}"]
    return "\n".join([lead, *forced, "", *_bullets(verdict)])


def _bullets(verdict: Verdict) -> list[str]:
    return [f"- {'passed' if passed else '**failed**'}: {reason}" for passed, reason in checks(verdict)]


def markdown(version: ModelVersion, scores: Scores) -> str:
    """Return the outcome, the checks and the scores as Markdown."""
    parts = [f"# {headline(version)}", "", *_bullets(version.verdict), "", table([HEADER, *rows(scores)]), ""]
    return "\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """Return rows of text cells, the header first, as a Markdown table.

    Examples
    --------
    >>> print(table([("noise", "MSE"), ("poisson", "0.001")]))
    | noise | MSE |
    | --- | --- |
    | poisson | 0.001 |
    """
    ruled = rows[0], ("---",) * len(rows[0]), *rows[1:]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)
