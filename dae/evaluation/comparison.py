"""Classical methods and models beside one another in words: rows for the terminal, and Markdown for a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dae.evaluation.baselines import Contender
from dae.evaluation.tables import Row, label
from dae.schemas import EIGHT_BIT, mean

SETTINGS_HEADER: Row = ("method", "noise", "settings", "tuned on")


def tables(contenders: Sequence[Contender], kinds: Sequence[str]) -> Iterator[tuple[str, Row, list[Row]]]:
    """Yield the title, the header and the rows of a table of test MSE for noise as drawn, and of one for noise in files."""
    drawn = [kind for kind in kinds if not kind.endswith(EIGHT_BIT)]
    filed = [kind for kind in kinds if kind.endswith(EIGHT_BIT)]
    for title, members in (("Test MSE, noise as drawn", drawn), ("Test MSE, noise as in 8-bit files", filed)):
        if members:
            yield title, header(members), list(rows(contenders, members))


def header(kinds: Sequence[str]) -> Row:
    """Return the names of the columns of `rows`: test MSE for each kind of noise and for all, then the rest."""
    names = (label(kind.removesuffix(EIGHT_BIT)) for kind in kinds)
    return ("method", "images", *names, "all", "PSNR", "SSIM", "images/s")


def rows(contenders: Iterable[Contender], kinds: Sequence[str]) -> Iterator[Row]:
    """Yield a line of text cells a contender, of its scores on the test images with some kinds of noise."""
    for each in contenders:
        groups = [each.scores.test.per_kind[kind] for kind in kinds]
        pooled = mean([group for group in groups if group.count])
        yield (
            each.title,
            str(pooled.count),
            *(f"{quality.mse:.5f}" for quality in groups),
            f"{pooled.mse:.5f}",
            f"{pooled.psnr:.1f}",
            f"{pooled.ssim:.3f}",
            f"{each.scores.images_per_second:,.{0 if each.scores.images_per_second >= 10 else 1}f}",
        )


def settings(contenders: Iterable[Contender], kinds: Sequence[str]) -> Iterator[Row]:
    """Yield a line of text cells for each setting that was tuned, with the number of validation images."""
    for each in contenders:
        for kind, setting in zip(kinds, each.settings, strict=False):
            if each.tuned_on and (each.told or kind == kinds[0]):
                values = setting.model_dump(exclude={"method"}).items()
                said = ", ".join(f"{key} {str(value).lower()}" for key, value in values)
                yield (each.title, label(kind) if each.told else "all", said, str(each.tuned_on))
