"""Which errors may be gone at the next attempt: those of a network, a server or a shared disk, and no others."""

from __future__ import annotations

import errno

import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

SERVER = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
DISK = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)


def transient(error: BaseException) -> bool:
    """Tell whether the same work may succeed if it is done again.

    Examples
    --------
    >>> transient(ConnectionResetError()), transient(ValueError("train.epochs must be at least 1"))
    (True, False)
    """
    if isinstance(error, MlflowException):
        return error.error_code in SERVER
    if isinstance(error, OSError) and error.errno in DISK:
        return True
    return isinstance(error, ConnectionError | TimeoutError | requests.ConnectionError | OperationalError)
