"""Agreement: scores found beside scores recorded, within a tolerance. Pure."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from typing import Any

from dae.config.schema import ConfigError
from dae.schemas import FrozenModel
from dae.tracking import provenance
from dae.tracking.client import TrackingError
from dae.tracking.runs import RecordedRun, parse_requirements

SLACK = 1e-9
"""Of the tolerance itself, for rounding: 0.0101 is within 1% of 0.01."""
PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "numpy", "jax", "jaxlib")


class ScoreComparison(FrozenModel):
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


def require_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that is none.

    Raises
    ------
    ConfigError
        If it is negative or not a finite number.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ConfigError(f"--tolerance must be 0 or more, such as 0.01 for 1%, received {tolerance}")


def compare_scores(
    recorded: Mapping[str, float], found: Mapping[str, float], tolerance: float
) -> tuple[ScoreComparison, ...]:
    """Return every score of either side. One that is missing or not a finite number agrees with nothing.

    Examples
    --------
    >>> [each.agrees for each in compare_scores({"test_mse": 0.01, "best_val_mse": 0.01}, {"test_mse": 0.0101}, 0.01)]
    [False, True]
    """
    return tuple(
        _compared(name, recorded.get(name), found.get(name), tolerance)
        for name in sorted({*recorded, *found}, key=_order)
    )


def _compared(name: str, recorded: float | None, found: float | None, tolerance: float) -> ScoreComparison:
    if recorded is None or found is None or not (math.isfinite(recorded) and math.isfinite(found)):
        return ScoreComparison(name=name, recorded=recorded, found=found, difference=None, agrees=False)
    apart = abs(found - recorded)
    return ScoreComparison(
        name=name,
        recorded=recorded,
        found=found,
        difference=found / recorded - 1 if recorded else (None if found else 0.0),
        agrees=apart <= tolerance * abs(recorded) * (1 + SLACK),
    )


def _order(name: str) -> tuple[bool, bool, str]:
    """Sort validation before test, and the pooled score before those of the kinds."""
    return name.startswith("test"), name not in ("best_val_mse", "test_mse"), name


def require_finished(run: RecordedRun) -> None:
    """Refuse a run that has no result to compare with.

    Raises
    ------
    TrackingError
        If it has not finished, or has no scores.
    """
    if run.status != "FINISHED":
        raise TrackingError(f"only a finished run can be compared with; run {run.run_id} is {run.status}")
    if not {"best_val_mse", "test_mse"} <= run.scores.keys():
        raise TrackingError(
            f"run {run.run_id} must have the metrics best_val_mse and test_mse; found {_list(run.scores)}"
        )


def environment_differences(run: RecordedRun) -> list[str]:
    """Return, in words, where the packages and the machine here are others than those of a run. Imports no Keras."""
    if not run.packages:
        return ["the run did not record its packages", *other_machine(run.machine, _machine())]
    here = parse_requirements(provenance.list_requirements())
    packages = [(name, run.packages.get(name), here.get(name)) for name in PACKAGES]
    notes = [f"{name} was {then or 'absent'}, is {now or 'absent'}" for name, then, now in packages if then != now]
    return notes + other_machine(run.machine, _machine())


def other_machine(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return, in words, in what that both tell of two machines differ."""
    return [f"{key} was {then[key]}, is {now[key]}" for key in then if key in now and then[key] != now[key]]


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


def _list(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
