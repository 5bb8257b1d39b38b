"""Starting a run of a deployment on a server, and following it until it ends."""

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
from dae.config.schema import ConfigError, PipelineConfig, with_former_names
from dae.promotion.reports import Ending
from flows.deployment.apply import DeploymentError
from flows.run_control import REFUSED

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 120
"""For this time a server may be unreachable while a run is followed."""
LATE = timedelta(seconds=10)
"""Logs arrive in batches and not quite in order, so the last seconds are read again."""
QUIET_SECONDS = 3
SKIPPED_MESSAGE = "Finished in state Completed()"
"""Every task logs this; its own log lines say more."""
Say = Callable[[str], None]


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    """Return a deployment by its name, or by ``flow/name`` if deployments of two flows have that name.

    Raises
    ------
    ConfigError
        If there is no such deployment, or more than one.
    """
    deployments = {
        f"{client.read_flow(deployment.flow_id).name}/{deployment.name}": deployment
        for deployment in client.read_deployments(limit=200)
    }
    matches = [deployment for full_name, deployment in deployments.items() if name in (full_name, deployment.name)]
    if len(matches) != 1:
        names = ", ".join(sorted(deployments)) or "none"
        raise ConfigError(f"DEPLOYMENT must name one of the server's ({names}), received {name}")
    return matches[0]


def make_parameters(
    deployment: DeploymentResponse, config: PipelineConfig | None, settings: Iterable[str]
) -> dict[str, Any]:
    """Return a deployment's parameters with settings applied: to its configuration if it has one, else to the parameters.

    Raises
    ------
    ConfigError
        If a setting is unknown, a value breaks a rule, or a configuration is passed to a deployment that has none.
    """
    if "config" in deployment.parameters:
        base = config or loading.validate(deployment.parameters["config"])
        return {"config": fit_to_schema(loading.with_settings(base, settings), deployment)}
    if config is not None:
        raise ConfigError(
            f"--config and the gate's switches are for deployments that train, {deployment.name} does not"
        )
    properties = (deployment.parameter_openapi_schema or {}).get("properties", {})
    defaults = {name: field.get("default") for name, field in properties.items()}
    return loading.merge_settings(defaults | deployment.parameters, settings)


def fit_to_schema(config: PipelineConfig, deployment: DeploymentResponse) -> dict[str, Any]:
    """Return a configuration as plain values that the parameter schema of a deployment allows.

    The server refuses fields that are not in the schema. The schema of an earlier deployment has the former names of renamed
    fields, and lacks newer fields. Newer fields are left out if they have their default.
    """
    tree, defaults = config.model_dump(mode="json"), PipelineConfig().model_dump(mode="json")
    definitions = (deployment.parameter_openapi_schema or {}).get("definitions", {})
    if "also" in definitions.get("DataConfig", {}).get("properties", {}):
        tree, defaults = with_former_names(tree), with_former_names(defaults)
    for section, fields in tree.items():
        known = definitions.get(type(getattr(config, section)).__name__, {}).get("properties", fields)
        tree[section] = {
            name: value for name, value in fields.items() if name in known or value != defaults[section][name]
        }
    return tree


def start_run(
    client: SyncPrefectClient,
    deployment: DeploymentResponse,
    parameters: dict[str, Any],
    actor: str,
    name: str | None = None,
) -> FlowRun:
    """Start a run. `actor` is recorded as responsible for its decisions.

    Raises
    ------
    DeploymentError
        If the server refuses the parameters.
    """
    variables = {"env": {"DAE_ACTOR": actor}}
    try:
        return client.create_flow_run_from_deployment(
            deployment.id, parameters=parameters, job_variables=variables, name=name
        )
    except PrefectHTTPStatusError as error:
        raise DeploymentError(f"{deployment.name}: the server refuses the run: {error}") from error


def follow_run(client: SyncPrefectClient, run_id: UUID, say: Say, seconds: float | None) -> State | None:
    """Report a run's log lines and state changes until it ends; return its final state, or None if the time is up.

    Raises
    ------
    DeploymentError
        If the server is unreachable for too long.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    logs, state_name, unreachable_since = _Logs(client, run_id), "", None
    while True:
        try:
            state = client.read_flow_run(run_id).state
            if state is not None and state.name != state_name:
                state_name = state.name or ""
                say(f"{state_name}: {state.message}" if state.message else state_name)
            for line in logs.new():
                say(line)
            unreachable_since = None
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError) and not error.response.is_server_error:
                raise
            state, unreachable_since = None, unreachable_since or time.monotonic()
            if time.monotonic() - unreachable_since > PATIENCE_SECONDS:
                raise DeploymentError(
                    f"the Prefect server has not answered for {PATIENCE_SECONDS} s: {error}"
                ) from error
        if state is not None and state.is_final():
            _report_remaining(logs, say)
            return state
        if deadline is not None and time.monotonic() > deadline:
            return None
        time.sleep(POLL_SECONDS)


def _report_remaining(logs: _Logs, say: Say) -> None:
    """Report the last log lines, which arrive after the final state."""
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 2)
        for line in logs.new():
            say(line)


class _Logs:
    """The log of a run; each line is returned once."""

    def __init__(self, client: SyncPrefectClient, run_id: UUID) -> None:
        self._client, self._run_id = client, run_id
        self._seen: set[UUID] = set()
        self._latest: datetime | None = None

    def new(self) -> Iterator[str]:
        """Yield the lines that were not returned before, oldest first."""
        after = LogFilterTimestamp(after_=self._latest - LATE) if self._latest else None
        log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self._run_id]), timestamp=after)
        offset = 0
        while page := self._client.read_logs(log_filter, limit=200, offset=offset, sort=LogSort.TIMESTAMP_ASC):
            offset += len(page)
            for log in page:
                if log.id not in self._seen and log.message != SKIPPED_MESSAGE:
                    self._seen.add(log.id)
                    self._latest = max(log.timestamp, self._latest or log.timestamp)
                    yield _line(log)


def _line(log: Log) -> str:
    level = "" if log.level < 30 else "WARNING " if log.level < 40 else "ERROR "
    return f"{log.timestamp.astimezone():%H:%M:%S}  {level}{log.message}"


def describe_ending(state: State | None) -> Ending:
    """Return how a run ended; a state of None means that it did not end in time."""
    if state is None or state.name == "TimedOut":
        return "timed out"
    if state.is_completed():
        return "refused" if state.name == REFUSED else "completed"
    return "cancelled" if state.is_cancelled() else "failed"


def run_url(run: FlowRun) -> str:
    """Return the address of the run's page."""
    return str(url_for("flow-run", run.id) or f"flow run {run.id}")
