"""Comparison of the scores of two runs within a tolerance, and of their packages and machines."""

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
"""Relative slack of the tolerance for rounding errors: 0.0101 is within 1% of 0.01."""
PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "numpy", "jax", "jaxlib")


class ScoreComparison(FrozenModel):
    """One score: its mean squared error as recorded and as found; None if it is missing.

    Attributes
    ----------
    difference : float or None
        ``found / recorded - 1``; None if that is not a finite number.
    """

    name: str
    recorded: float | None
    found: float | None
    difference: float | None
    agrees: bool


def require_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that is not valid.

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
    """Compare all scores of both runs. A score that is missing or not a finite number does not agree.

    Examples
    --------
    >>> [score.agrees for score in compare_scores({"test_mse": 0.01, "best_val_mse": 0.01}, {"test_mse": 0.0101}, 0.01)]
    [False, True]
    """
    return tuple(
        _compare(name, recorded.get(name), found.get(name), tolerance)
        for name in sorted({*recorded, *found}, key=_order)
    )


def _compare(name: str, recorded: float | None, found: float | None, tolerance: float) -> ScoreComparison:
    if recorded is None or found is None or not (math.isfinite(recorded) and math.isfinite(found)):
        return ScoreComparison(name=name, recorded=recorded, found=found, difference=None, agrees=False)
    return ScoreComparison(
        name=name,
        recorded=recorded,
        found=found,
        difference=found / recorded - 1 if recorded else (None if found else 0.0),
        agrees=abs(found - recorded) <= tolerance * abs(recorded) * (1 + SLACK),
    )


def _order(name: str) -> tuple[bool, bool, str]:
    """Return a sort key: validation before test, and the pooled score before the scores of each kind of noise."""
    return name.startswith("test"), name not in ("best_val_mse", "test_mse"), name


def require_finished(run: RecordedRun) -> None:
    """Refuse a run without a result to compare with.

    Raises
    ------
    TrackingError
        If it has not finished, or has no scores.
    """
    if run.status != "FINISHED":
        raise TrackingError(f"run {run.run_id} must be finished to be compared with, but it is {run.status}")
    if not {"best_val_mse", "test_mse"} <= run.scores.keys():
        raise TrackingError(
            f"run {run.run_id} must have the metrics best_val_mse and test_mse; found {_list(run.scores)}"
        )


def environment_differences(run: RecordedRun) -> list[str]:
    """Return, in words, how the packages and the machine here differ from those of a run. Imports no Keras."""
    if not run.packages:
        return ["the run did not record its packages", *other_machine(run.machine, _machine())]
    installed = parse_requirements(provenance.list_requirements())
    packages = [(name, run.packages.get(name), installed.get(name)) for name in PACKAGES]
    notes = [f"{name} was {then or 'absent'}, is {now or 'absent'}" for name, then, now in packages if then != now]
    return notes + other_machine(run.machine, _machine())


def other_machine(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return, in words, the differences between two machines in the properties that both record."""
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
