"""Agreement: scores found beside scores recorded, within a tolerance. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dae.config.schema import ConfigError
from dae.schemas import Frozen

SLACK = 1e-9
"""Of the tolerance itself, for rounding: 0.0101 is within 1% of 0.01."""


class Compared(Frozen):
    """One score: its mean squared error as recorded and as found, None where there is none.

    Attributes
    ----------
    difference : float or None
        ``found / recorded - 1``; None where that is no finite number.
    """

    name: str
    recorded: float | None
    found: float | None
    difference: float | None
    agrees: bool


def require(tolerance: float) -> None:
    """Refuse a tolerance that is none.

    Raises
    ------
    ConfigError
        If it is negative or not a finite number.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ConfigError(f"--tolerance must be 0 or more, such as 0.01 for 1%, received {tolerance}")


def compare(recorded: Mapping[str, float], found: Mapping[str, float], tolerance: float) -> tuple[Compared, ...]:
    """Return every score of either side. One that is missing or not a finite number agrees with nothing.

    Examples
    --------
    >>> [each.agrees for each in compare({"test_mse": 0.01, "best_val_mse": 0.01}, {"test_mse": 0.0101}, 0.01)]
    [False, True]
    """
    return tuple(
        _compared(name, recorded.get(name), found.get(name), tolerance)
        for name in sorted({*recorded, *found}, key=_order)
    )


def scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return those of a run's metrics that are mean squared errors of its model: pooled and by kind, on both splits."""
    chosen = {name: value for name, value in metrics.items() if name in ("best_val_mse", "test_mse")}
    by_kind = {name: value for name, value in metrics.items() if name.startswith(("val_mse_", "test_mse_"))}
    return chosen | {name: value for name, value in by_kind.items() if not name.endswith("_nothing")}


def _compared(name: str, recorded: float | None, found: float | None, tolerance: float) -> Compared:
    if recorded is None or found is None or not (math.isfinite(recorded) and math.isfinite(found)):
        return Compared(name=name, recorded=recorded, found=found, difference=None, agrees=False)
    apart = abs(found - recorded)
    return Compared(
        name=name,
        recorded=recorded,
        found=found,
        difference=found / recorded - 1 if recorded else (None if found else 0.0),
        agrees=apart <= tolerance * abs(recorded) * (1 + SLACK),
    )


def _order(name: str) -> tuple[bool, bool, str]:
    """Sort validation before test, and the pooled score before those of the kinds."""
    return name.startswith("test"), name not in ("best_val_mse", "test_mse"), name
