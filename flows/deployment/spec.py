"""The objects that ``prefect.yaml`` and ``deploy/server.yaml`` specify for the Prefect server."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from prefect.deployments.steps.core import StepExecutionError, run_steps
from prefect.events.actions import UnknownAction
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.templating import apply_values
from pydantic import ValidationError

from dae.config.schema import ConfigError
from dae.schemas import FrozenModel

WEBHOOK = "{{ webhook }}"
"""Placeholder for the id of the webhook's block, which differs between servers."""


class Deployment(FrozenModel):
    """The fields of a deployment that ``prefect.yaml`` sets, as plain values: they are compared with the server's."""

    name: str
    entrypoint: str
    description: str
    tags: tuple[str, ...]
    work_pool: str
    job_variables: dict[str, Any]
    parameters: dict[str, Any]
    parameter_schema: dict[str, Any]
    pull: dict[str, Any]
    schedules: tuple[tuple[str, str, str, bool], ...]
    concurrency: tuple[int, str] | None
    paused: bool


class WorkPool(FrozenModel):
    """A work pool, and how many of its runs may execute at once."""

    name: str
    type: str
    concurrency_limit: int | None = None
    paused: bool = False


def read_deployments(file: Path) -> list[Deployment]:
    """Return the deployments of a ``prefect.yaml``, after its build steps were run and its placeholders filled.

    Raises
    ------
    ConfigError
        If the file cannot be read, lacks a field, or names a configuration that is invalid.
    """
    tree = _read(file)
    try:
        step_outputs = asyncio.run(run_steps(tree.get("build") or [], {}, print_function=lambda *_, **__: None))
        deployments: Any = apply_values(tree["deployments"], dict(os.environ), remove_notset=False)
        deployments = apply_values(deployments, step_outputs)
        directory = {"directory": str(file.resolve().parent)}
        pull = tree.get("pull") or [{"prefect.deployments.steps.set_working_directory": directory}]
        return [_deployment(deployment, deployment.get("pull") or pull) for deployment in deployments]
    except KeyError as error:
        rule = "every deployment must have name, entrypoint and work_pool, and every schedule cron and timezone"
        raise ConfigError(f"{file}: {rule}, lacks {error}") from error
    except StepExecutionError as error:
        raise ConfigError(f"{file}: build: {error.__cause__ or error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{file}: deployments: {error}") from error


def _deployment(tree: dict[str, Any], pull: list[dict[str, Any]]) -> Deployment:
    limit, pool = tree.get("concurrency_limit"), tree["work_pool"]
    return Deployment(
        name=tree["name"],
        entrypoint=tree["entrypoint"],
        description=tree.get("description") or "",
        tags=tuple(tree.get("tags") or ()),
        work_pool=pool["name"],
        job_variables=pool.get("job_variables") or {},
        parameters=tree.get("parameters") or {},
        parameter_schema=_parameter_schema(tree["entrypoint"]),
        pull=flatten_steps(pull),
        schedules=tuple(
            sorted(
                (str(entry["cron"]), str(entry["timezone"]), str(entry.get("slug")), bool(entry.get("active", True)))
                for entry in tree.get("schedules") or ()
            )
        ),
        concurrency=(int(limit["limit"]), str(limit["collision_strategy"])) if limit else None,
        paused=bool(tree.get("paused", False)),
    )


def flatten_steps(pull: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the inputs of the steps that fetch a flow's code, by step name."""
    return {name: inputs for step in pull for name, inputs in step.items()}


def without_empty(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter schema without its empty parts, since the server omits some of them."""
    return {name: part for name, part in schema.items() if part}


@functools.cache
def _parameter_schema(entrypoint: str) -> dict[str, Any]:
    try:
        return without_empty(parameter_schema(load_flow_from_entrypoint(entrypoint)).model_dump())
    except Exception as error:  # importing a module may raise anything
        raise ValueError(f"entrypoint {entrypoint} must name a flow: {error}") from error


def read_work_pools(file: Path) -> list[WorkPool]:
    """Return the work pools of a ``server.yaml``.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a field is invalid.
    """
    try:
        return [WorkPool.model_validate(pool) for pool in _read(file).get("work_pools") or ()]
    except ValidationError as error:
        raise ConfigError(f"{file}: work_pools: {error}") from error


def read_automations(file: Path, webhook: str | None) -> list[AutomationCore]:
    """Return the automations of a ``server.yaml``. Without the id of a webhook block, actions that call it are left out.

    Raises
    ------
    ConfigError
        If the file cannot be read, or an automation is invalid.
    """
    automations = []
    for tree in _read(file).get("automations") or ():
        actions = [_with_webhook(action, webhook) for action in tree.get("actions") or ()]
        if not (callable_actions := [action for action in actions if action is not None]):
            continue
        try:
            automation = AutomationCore.model_validate({**tree, "actions": callable_actions})
            _require_known(automation)
            # With all defaults set: an update does not change missing fields, so a disabled automation would stay disabled.
            automations.append(AutomationCore.model_validate(automation.model_dump(exclude={"owner_resource"})))
        except ValueError as error:
            raise ConfigError(f"{file}: automation {tree.get('name')}: {error}") from error
    return automations


def _require_known(automation: AutomationCore) -> None:
    """Refuse an action of a type that Prefect does not know: its client accepts it, but its server does not."""
    actions = automation.actions + automation.actions_on_trigger + automation.actions_on_resolve
    if unknown := sorted({action.type for action in actions if isinstance(action, UnknownAction)}):
        raise ValueError(f"actions: type must be one that Prefect knows, received {', '.join(unknown)}")


def _with_webhook(action: dict[str, Any], webhook: str | None) -> dict[str, Any] | None:
    if action.get("block_document_id") != WEBHOOK:
        return action
    return {**action, "block_document_id": webhook} if webhook else None


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: must be a mapping, received {type(tree).__name__}")
    return tree
