"""Health checks of the services: each sends a request as a client would."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx

from dae.services import postgres, supervision
from dae.services.postgres import ServicesError
from dae.services.settings import ServiceSettings

PATIENCE = 180
"""Seconds to wait for a service. The first start creates its tables, which takes a minute on a slow machine."""
POLL = 0.5


def wait(settings: ServiceSettings, name: str) -> None:
    """Wait until a service is healthy.

    Raises
    ------
    ServicesError
        If it stops, or is not healthy in time. The message has the end of its log.
    """
    deadline = time.monotonic() + PATIENCE
    while (trouble := CHECKS[name](settings)) is not None:
        state = (supervision.states(settings) or {}).get(name)
        if state is None or state in supervision.STOPPED or time.monotonic() > deadline:
            log = settings.folder / "logs" / f"{name}.log"
            raise ServicesError(
                f"{name} is not healthy: {trouble}; {log} ends:\n{supervision.log_tail(settings, name)}"
            )
        time.sleep(POLL)


def trouble(settings: ServiceSettings, name: str) -> str | None:
    """Return what is wrong with a service; None if it is healthy."""
    return CHECKS[name](settings)


def _postgres(settings: ServiceSettings) -> str | None:
    import psycopg2

    try:
        with closing(postgres.connection(settings)):
            return None
    except psycopg2.OperationalError as error:
        return str(error).strip()


def _mlflow(settings: ServiceSettings) -> str | None:
    login = ("admin", settings.mlflow_password)
    url = f"{settings.mlflow_url}/api/2.0/mlflow/experiments/search"
    return _check_answer(lambda: httpx.get(url, params={"max_results": 1}, auth=login, timeout=10))


def _prefect(settings: ServiceSettings) -> str | None:
    return _check_answer(lambda: _of_prefect(settings, "flow_runs/count"))


def _worker(settings: ServiceSettings) -> str | None:
    try:
        answer = _of_prefect(settings, f"work_pools/{supervision.WORK_POOL}/workers/filter")
        workers = answer.json() if answer.status_code == httpx.codes.OK else []
    except (httpx.HTTPError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    online = [worker["name"] for worker in workers if worker["status"] == "ONLINE"]
    return None if set(online) & supervision.worker_names() else "no worker of this machine is online in the pool"


def _of_prefect(settings: ServiceSettings, path: str) -> httpx.Response:
    login = ("admin", settings.prefect_password)
    return httpx.post(f"{settings.prefect_url}/api/{path}", json={}, auth=login, timeout=10)


def _check_answer(request: Callable[[], httpx.Response]) -> str | None:
    try:
        answer: Any = request()
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return "the password in .env is not the server's"
    return None if answer.is_success else f"HTTP status {answer.status_code}"


CHECKS: dict[str, Callable[[ServiceSettings], str | None]] = {
    "postgres": _postgres,
    "mlflow": _mlflow,
    "prefect": _prefect,
    "worker": _worker,
}
"""In the order in which they are started."""
