"""Scores as tables of text: of a model by kind of noise, and of classical baselines beside models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dae.evaluation.baselines import BaselineResult
from dae.schemas import EIGHT_BIT, Quality, Scores, pool_quality

Row = tuple[str, ...]
FORMS = {"drawn": "all, as drawn", "8bit": "all, 8-bit"}
SETTINGS_HEADER: Row = ("method", "noise", "settings", "tuned on")


def kind_label(kind: str) -> str:
    """Return a kind's name as prose.

    Examples
    --------
    >>> kind_label("salt_and_pepper"), kind_label("poisson_8bit")
    ('salt and pepper', 'poisson, 8-bit')
    """
    in_file = ", 8-bit" if kind.endswith(EIGHT_BIT) else ""
    return kind.removesuffix(EIGHT_BIT).replace("_", " ") + in_file


def format_mse(value: float | None) -> str:
    """Return a mean squared error with five digits, ``-`` where there is none."""
    return "-" if value is None else f"{value:.5f}"


def score_header(scores: Scores) -> Row:
    """Return the names of the columns of `score_rows`."""
    others = (name.replace("_", " ") for name in scores.validation.pooled.others)
    return ("noise", "images", "MSE", "MSE, noisy input", "PSNR", "SSIM", *others, "test MSE")


def score_rows(scores: Scores) -> Iterator[Row]:
    """Yield a line of text cells for each kind of noise, and one for all of them: validation, then the test MSE."""
    validation, test = scores.validation, scores.test
    groups: list[tuple[str, Quality, Quality | None, Quality | None]] = [
        (kind_label(kind), validation.per_kind[kind], validation.per_kind_nothing.get(kind), test.per_kind.get(kind))
        for kind in validation.per_kind
    ]
    tested = test.per_form()
    for form, (restored, noisy) in validation.per_form().items():
        groups.append((FORMS[form], restored, noisy, tested[form][0] if form in tested else None))
    groups.append(("all", validation.pooled, validation.pooled_nothing, test.pooled))
    for name, model, noisy_input, held_out in groups:
        yield (
            name,
            str(model.count),
            f"{model.mse:.5f}",
            f"{noisy_input.mse:.5f}" if noisy_input else "-",
            f"{model.psnr:.1f} dB",
            f"{model.ssim:.3f}",
            *(f"{value:.4g}" for value in model.others.values()),
            f"{held_out.mse:.5f}" if held_out else "-",
        )


def markdown_table(rows: Sequence[Row]) -> str:
    """Return rows of text cells, the header first, as a Markdown table.

    Examples
    --------
    >>> print(markdown_table([("noise", "MSE"), ("poisson", "0.001")]))
    | noise | MSE |
    | --- | --- |
    | poisson | 0.001 |
    """
    ruled = rows[0], ("---",) * len(rows[0]), *rows[1:]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def baseline_tables(results: Sequence[BaselineResult], kinds: Sequence[str]) -> Iterator[tuple[str, Row, list[Row]]]:
    """Yield the title, the header and the rows of a table of test MSE for noise as drawn, and of one for noise in files."""
    drawn = [kind for kind in kinds if not kind.endswith(EIGHT_BIT)]
    filed = [kind for kind in kinds if kind.endswith(EIGHT_BIT)]
    for title, members in (("Test MSE, noise as drawn", drawn), ("Test MSE, noise as in 8-bit files", filed)):
        if members:
            yield title, _baseline_header(members), list(_baseline_rows(results, members))


def _baseline_header(kinds: Sequence[str]) -> Row:
    """Return the names of the columns of `score_rows`: test MSE for each kind of noise and for all, then the rest."""
    names = (kind_label(kind.removesuffix(EIGHT_BIT)) for kind in kinds)
    return ("method", "images", *names, "all", "PSNR", "SSIM", "images/s")


def _baseline_rows(results: Iterable[BaselineResult], kinds: Sequence[str]) -> Iterator[Row]:
    """Yield a line of text cells a result, of its scores on the test images with some kinds of noise."""
    for result in results:
        groups = [result.scores.test.per_kind[kind] for kind in kinds]
        pooled = pool_quality([group for group in groups if group.count])
        yield (
            result.title,
            str(pooled.count),
            *(f"{quality.mse:.5f}" for quality in groups),
            f"{pooled.mse:.5f}",
            f"{pooled.psnr:.1f}",
            f"{pooled.ssim:.3f}",
            f"{result.scores.images_per_second:,.{0 if result.scores.images_per_second >= 10 else 1}f}",
        )


def baseline_settings(results: Iterable[BaselineResult], kinds: Sequence[str]) -> Iterator[Row]:
    """Yield a line of text cells for each setting that was tuned, with the number of validation images."""
    for result in results:
        for kind, setting in zip(kinds, result.settings, strict=False):
            if result.tuned_on and (result.oracle or kind == kinds[0]):
                values = setting.model_dump(exclude={"method"}).items()
                text = ", ".join(f"{key} {str(value).lower()}" for key, value in values)
                yield (result.title, kind_label(kind) if result.oracle else "all", text, str(result.tuned_on))
