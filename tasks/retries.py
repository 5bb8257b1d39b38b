"""When a task is tried again: only where that helps, and where doing the work twice leaves what doing it once does."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from dae.tracking.client import is_transient


def helps(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Tell whether a failed task is to be tried again: what its error names, such as a wrong image, would be wrong again."""
    try:
        state.result()
    except Exception as error:  # noqa: BLE001  (what it is decides)
        return is_transient(error)
    return False


RETRIES: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [10, 60], "retry_condition_fn": helps}
"""Of tasks that can be repeated: stored sets are found again, training goes on after its last epoch, scores are the same.

Registering and promoting are not among them: a second version would be made, and what a promotion left is finished by the
next command.
"""
