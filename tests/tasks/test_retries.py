"""Which errors are tried again: in words, and by a task of a real flow run."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)
from prefect import flow, task
from sqlalchemy.exc import IntegrityError, OperationalError

from dae.config.schema import ConfigError
from dae.data.arrays import DataError
from dae.tracking.client import TrackingError, is_transient
from tasks.assess import assess
from tasks.corrupt import corrupt
from tasks.evaluate import evaluate
from tasks.ingest import ingest
from tasks.judge import judge
from tasks.promote import promote
from tasks.register import register
from tasks.retries import RETRIES
from tasks.score import score
from tasks.train import train


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("the server broke", INTERNAL_ERROR),
        MlflowException("later", TEMPORARILY_UNAVAILABLE),
        MlflowException("slower", REQUEST_LIMIT_EXCEEDED),
        requests.ConnectionError("refused"),
        requests.ConnectTimeout("slow"),
        ConnectionRefusedError(),
        BrokenPipeError(),
        TimeoutError(),
        OperationalError("SELECT 1", {}, Exception("database is locked")),
        OSError(errno.EIO, "a shared disk"),
        OSError(errno.ESTALE, "NFS"),
        OSError(errno.EAGAIN, "busy"),
    ],
    ids=repr,
)
def test_what_may_be_gone_next_time_is_transient(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("no such run", RESOURCE_DOES_NOT_EXIST),
        MlflowException("there already", RESOURCE_ALREADY_EXISTS),
        MlflowException("what a value", INVALID_PARAMETER_VALUE),
        MlflowException("who are you", UNAUTHENTICATED),
        OSError(errno.ENOSPC, "no space left"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        PermissionError(errno.EACCES, "not yours"),
        IntegrityError("INSERT", {}, Exception("not unique")),
        DataError("01.png", "must be 16x16", "20x16"),
        ConfigError("train.epochs must be at least 1"),
        TrackingError("no run"),
        MemoryError(),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
    ids=repr,
)
def test_what_would_be_wrong_again_is_not(error: BaseException) -> None:
    assert not is_transient(error)


def attempts(*errors: Exception) -> tuple[int, Any]:
    """Run a task that fails with one error after the other in a flow; return how often it ran, and how it ended."""
    left, count = list(errors), 0

    @task(**RETRIES | {"retry_delay_seconds": 0})
    def work() -> str:
        nonlocal count
        count += 1
        if left:
            raise left.pop(0)
        return "done"

    @flow(name="of-a-test")
    def work_once() -> str:
        return work()

    state = work_once(return_state=True)
    return count, state.result(raise_on_failure=False)


@pytest.mark.usefixtures("prefect_server")
def test_a_task_is_done_again_after_what_passes_and_then_goes_on() -> None:
    assert attempts(ConnectionResetError(), OSError(errno.ESTALE, "NFS")) == (3, "done")


@pytest.mark.usefixtures("prefect_server")
def test_a_task_gives_up_when_it_does_not_pass() -> None:
    count, ended = attempts(*[TimeoutError("still")] * 5)
    assert (count, str(ended)) == (3, "still")


@pytest.mark.usefixtures("prefect_server")
def test_a_task_is_not_done_again_where_that_would_not_help() -> None:
    count, ended = attempts(ValueError("wrong"), ValueError("again"))
    assert (count, str(ended)) == (1, "wrong")
    count, ended = attempts(ConnectionResetError("first"), ValueError("then"))
    assert (count, str(ended)) == (2, "then")


@pytest.mark.parametrize("of", [ingest, corrupt, train, evaluate, score, assess], ids=lambda each: each.name)
def test_tasks_that_can_be_repeated_are(of: Any) -> None:
    assert (of.retries, of.retry_condition_fn) == (2, RETRIES["retry_condition_fn"])


@pytest.mark.parametrize("of", [register, promote, judge], ids=lambda each: each.name)
def test_tasks_that_would_leave_more_than_once_done_are_not(of: Any) -> None:
    assert of.retries == 0
