"""Classical methods and models beside one another in words: rows for the terminal, and Markdown for a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dae.baselines import Contender
from dae.report import Row, label

SETTINGS_HEADER: Row = ("method", "noise", "settings", "tuned on")


def header(kinds: Sequence[str]) -> Row:
    """Return the names of the columns of `rows`: test MSE for each kind of noise and for all, then the rest."""
    return ("method", "images", *map(label, kinds), "all", "PSNR", "SSIM", "images/s")


def rows(contenders: Iterable[Contender]) -> Iterator[Row]:
    """Yield a line of text cells a contender, of its scores on test images."""
    for each in contenders:
        test = each.scores.test
        yield (
            each.title,
            str(each.images),
            *(f"{quality.mse:.5f}" for quality in test.per_kind.values()),
            f"{test.pooled.mse:.5f}",
            f"{test.pooled.psnr:.1f}",
            f"{test.pooled.ssim:.3f}",
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
