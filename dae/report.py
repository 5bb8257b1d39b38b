"""The outcome of a run in words: for the terminal, and as Markdown for Prefect's UI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dae.records import ModelVersion, Scores

Row = tuple[str, ...]
HEADER: Row = ("noise", "images", "MSE", "MSE, nothing done", "PSNR", "SSIM", "test MSE")


def label(kind: str) -> str:
    """Return a kind's name as prose.

    Examples
    --------
    >>> label("salt_and_pepper")
    'salt and pepper'
    """
    return kind.replace("_", " ")


def rows(scores: Scores) -> Iterator[Row]:
    """Yield a line of text cells for each kind of noise, and one for all of them: validation, then the test MSE."""
    validation, test = scores.validation, scores.test
    groups = [
        (label(kind), validation.per_kind[kind], validation.per_kind_nothing.get(kind), test.per_kind.get(kind))
        for kind in validation.per_kind
    ]
    for name, model, nothing, held_out in [*groups, ("all", validation.pooled, validation.pooled_nothing, test.pooled)]:
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
    """Return the verdict in one sentence."""
    if version.verdict.promoted:
        return f"Promoted: {version.name} version {version.version} is the champion."
    return f"Refused: {version.name} version {version.version} is registered, and the champion stays as it was."


def markdown(version: ModelVersion, scores: Scores) -> str:
    """Return the verdict, its checks and the scores as Markdown."""
    checks = [f"- {'passed' if check.passed else '**failed**'}: {check.reason}" for check in version.verdict.checks]
    reasons = [] if version.verdict.checks else [f"- **failed**: {reason}" for reason in version.verdict.reasons]
    return "\n".join([f"# {headline(version)}", "", *checks, *reasons, "", table([HEADER, *rows(scores)]), ""])


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
