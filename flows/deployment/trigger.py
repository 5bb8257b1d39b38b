"""Starting a run of a deployment from elsewhere, and following it to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterTimestamp
from prefect.client.schemas.objects import FlowRun, Log, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import PrefectHTTPStatusError
from prefect.utilities.urls import url_for

from dae.config import loading
from dae.config.schema import ConfigError, PipelineConfig
from dae.promotion.reports import Ending
from flows.deployment.apply import DeploymentError
from flows.run_control import REFUSED

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 120
"""So long a server may be away while a run is followed."""
LATE = timedelta(seconds=10)
"""Logs come in batches, and not quite in order: so far back they are looked for again."""
QUIET_SECONDS = 3
UNSAID = "Finished in state Completed()"
"""Of every task: what it did is said before."""
Say = Callable[[str], None]


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    """Return a deployment by its name, or by ``flow/name`` where two flows have one of that name.

    Raises
    ------
    ConfigError
        If there is none, or more than one.
    """
    known = {f"{client.read_flow(each.flow_id).name}/{each.name}": each for each in client.read_deployments(limit=200)}
    found = [each for full, each in known.items() if name in (full, each.name)]
    if len(found) != 1:
        names = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"DEPLOYMENT must name one of the server's ({names}), received {name}")
    return found[0]


def make_parameters(
    deployment: DeploymentResponse, config: PipelineConfig | None, settings: Iterable[str]
) -> dict[str, Any]:
    """Return a deployment's parameters with settings applied: of its configuration if it has one, else of the parameters.

    Raises
    ------
    ConfigError
        If a setting is unknown, a value breaks a rule, or a configuration is given to a deployment that takes none.
    """
    if "config" in deployment.parameters:
        base = config or loading.validate(deployment.parameters["config"])
        return {"config": loading.with_settings(base, settings).model_dump(mode="json")}
    if config is not None:
        raise ConfigError(
            f"--config and the gate's switches are for deployments that train, {deployment.name} does not"
        )
    asked = deployment.parameter_openapi_schema or {}
    defaults = {name: field.get("default") for name, field in asked.get("properties", {}).items()}
    return loading.merge_settings(defaults | deployment.parameters, settings)


def start_run(
    client: SyncPrefectClient,
    deployment: DeploymentResponse,
    asked: dict[str, Any],
    actor: str,
    name: str | None = None,
) -> FlowRun:
    """Ask for a run; who asks is who answers for what it decides.

    Raises
    ------
    DeploymentError
        If the server refuses the parameters.
    """
    variables = {"env": {"DAE_ACTOR": actor}}
    try:
        return client.create_flow_run_from_deployment(
            deployment.id, parameters=asked, job_variables=variables, name=name
        )
    except PrefectHTTPStatusError as error:
        raise DeploymentError(f"{deployment.name}: the server refuses the run: {error}") from error


def follow_run(client: SyncPrefectClient, run_id: UUID, say: Say, seconds: float | None) -> State | None:
    """Say what a run logs and how its state changes until it has ended; return that state, None if it takes too long.

    Raises
    ------
    DeploymentError
        If the server is away for too long.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    logs, told, away_since = _Logs(client, run_id), "", None
    while True:
        try:
            state = client.read_flow_run(run_id).state
            if state is not None and state.name != told:
                told = state.name or ""
                say(f"{told}: {state.message}" if state.message else told)
            for line in logs.new():
                say(line)
            away_since = None
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError) and not error.response.is_server_error:
                raise
            state, away_since = None, away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_SECONDS:
                raise DeploymentError(
                    f"the Prefect server has not answered for {PATIENCE_SECONDS} s: {error}"
                ) from error
        if state is not None and state.is_final():
            _say_the_rest(logs, say)
            return state
        if deadline is not None and time.monotonic() > deadline:
            return None
        time.sleep(POLL_SECONDS)


def _say_the_rest(logs: _Logs, say: Say) -> None:
    """Say what was logged last: it arrives after the state."""
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 2)
        for line in logs.new():
            say(line)


class _Logs:
    """The log of a run, each line once."""

    def __init__(self, client: SyncPrefectClient, run_id: UUID) -> None:
        self._client, self._run_id = client, run_id
        self._seen: set[UUID] = set()
        self._latest: datetime | None = None

    def new(self) -> Iterator[str]:
        """Yield the lines that have not been seen, oldest first."""
        after = LogFilterTimestamp(after_=self._latest - LATE) if self._latest else None
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self._run_id]), timestamp=after)
        offset = 0
        while page := self._client.read_logs(wanted, limit=200, offset=offset, sort=LogSort.TIMESTAMP_ASC):
            offset += len(page)
            for log in page:
                if log.id not in self._seen and log.message != UNSAID:
                    self._seen.add(log.id)
                    self._latest = max(log.timestamp, self._latest or log.timestamp)
                    yield _line(log)


def _line(log: Log) -> str:
    level = "" if log.level < 30 else "WARNING " if log.level < 40 else "ERROR "
    return f"{log.timestamp.astimezone():%H:%M:%S}  {level}{log.message}"


def describe_ending(state: State | None) -> Ending:
    """Return in a word how a run ended; None: it did not in time."""
    if state is None or state.name == "TimedOut":
        return "timed out"
    if state.is_completed():
        return "refused" if state.name == REFUSED else "completed"
    return "cancelled" if state.is_cancelled() else "failed"


def run_url(run: FlowRun) -> str:
    """Return the run's page."""
    return str(url_for("flow-run", run.id) or f"flow run {run.id}")
