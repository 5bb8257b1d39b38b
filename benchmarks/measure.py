"""What every benchmark returns: one quantity, measured in turn on this project and on a reference, several times over."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the page.

    Attributes
    ----------
    what : str
        What was measured, such as ``"equal mix, one thread"``.
    unit : str
        Of both figures, such as ``"images/s"``.
    ours : tuple of float
        This project's figures, one a repeat.
    reference : tuple of float
        Those of `than`, from the same repeats in the same order; a single one where it was measured once, and empty where
        there is nothing to compare with.
    than : str
        What the reference is, such as ``"the article's loop"``.
    more_is_better : bool
        Whether a larger figure is the better one.
    target : float or None
        What the ratio should be at least.
    """

    what: str
    unit: str
    ours: tuple[float, ...]
    reference: tuple[float, ...] = ()
    than: str = ""
    more_is_better: bool = True
    target: float | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times better than the reference, a repeat at a time; above 1 is better."""
        if not self.reference:
            return ()
        reference = self.reference if len(self.reference) > 1 else self.reference * len(self.ours)
        pairs = zip(self.ours, reference, strict=True)
        return tuple(ours / theirs if self.more_is_better else theirs / ours for ours, theirs in pairs)


def seconds(work: Callable[[], object]) -> float:
    """Return how long a piece of work took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(values: tuple[float, ...], digits: int = 3) -> str:
    """Return the median and, in brackets, the least and the greatest of some figures.

    Examples
    --------
    >>> spread((1.0, 4.0, 2.0))
    '2 (1 to 4)'
    >>> spread((1234.5,))
    '1,230'
    """
    if not values:
        return ""
    low, middle, high = (_rounded(f(values), digits) for f in (min, statistics.median, max))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def _rounded(value: float, digits: int) -> str:
    return f"{float(f'{value:.{digits}g}'):,.10g}"
