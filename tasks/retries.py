"""Retries of tasks: only after errors that may pass, and only of work that can be repeated without effect."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from dae.tracking.client import is_transient


def is_retryable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failed task is retried. An invalid image, for example, would fail again."""
    try:
        state.result()
    except Exception as error:  # noqa: BLE001  (its type decides)
        return is_transient(error)
    return False


RETRIES: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [10, 60], "retry_condition_fn": is_retryable}
"""Options of tasks that can be repeated: stored sets are found, training resumes after its last epoch, scores are the same.

Registering would create a second version. An interrupted promotion is completed by the next command.
"""
