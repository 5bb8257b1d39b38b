"""What the Prefect server is to hold, as ``prefect.yaml`` and ``deploy/server.yaml`` ask for it."""

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
"""Stands for the id of the webhook's block, which every server gives anew."""


class Deployment(FrozenModel):
    """What of a deployment `prefect.yaml` decides, as plain values: they are compared with the server's."""

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
    """A work pool, and how many runs go on in it at once."""

    name: str
    type: str
    concurrency_limit: int | None = None
    paused: bool = False


def read_deployments(file: Path) -> list[Deployment]:
    """Return the deployments of a ``prefect.yaml``, its build steps run and its placeholders filled.

    Raises
    ------
    ConfigError
        If the file cannot be read, lacks something, or names a configuration that is refused.
    """
    tree = _read(file)
    try:
        built = asyncio.run(run_steps(tree.get("build") or [], {}, print_function=lambda *_, **__: None))
        named: Any = apply_values(tree["deployments"], dict(os.environ), remove_notset=False)
        filled: Any = apply_values(named, built)
        here = [{"prefect.deployments.steps.set_working_directory": {"directory": str(file.resolve().parent)}}]
        return [_deployment(each, each.get("pull") or tree.get("pull") or here) for each in filled]
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
                (str(each["cron"]), str(each["timezone"]), str(each.get("slug")), bool(each.get("active", True)))
                for each in tree.get("schedules") or ()
            )
        ),
        concurrency=(int(limit["limit"]), str(limit["collision_strategy"])) if limit else None,
        paused=bool(tree.get("paused", False)),
    )


def flatten_steps(pull: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the steps that fetch a flow's code, by name."""
    return {name: inputs for step in pull for name, inputs in step.items()}


def without_empty(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of parameters without its empty parts, some of which the server leaves out."""
    return {name: part for name, part in schema.items() if part}


@functools.cache
def _parameter_schema(entrypoint: str) -> dict[str, Any]:
    try:
        return without_empty(parameter_schema(load_flow_from_entrypoint(entrypoint)).model_dump())
    except Exception as error:  # whatever importing a module may raise
        raise ValueError(f"entrypoint {entrypoint} must name a flow: {error}") from error


def read_work_pools(file: Path) -> list[WorkPool]:
    """Return the work pools of a ``server.yaml``.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a field is wrong.
    """
    try:
        return [WorkPool.model_validate(each) for each in _read(file).get("work_pools") or ()]
    except ValidationError as error:
        raise ConfigError(f"{file}: work_pools: {error}") from error


def read_automations(file: Path, webhook: str | None) -> list[AutomationCore]:
    """Return the automations of a ``server.yaml``. Without the id of a webhook block they call none.

    Raises
    ------
    ConfigError
        If the file cannot be read, or Prefect would not take an automation.
    """
    found = []
    for tree in _read(file).get("automations") or ():
        actions = [_with_webhook(action, webhook) for action in tree.get("actions") or ()]
        if not (kept := [action for action in actions if action is not None]):
            continue
        try:
            asked = AutomationCore.model_validate({**tree, "actions": kept})
            _require_known(asked)
            # Said outright, defaults too: an update leaves what is not said as it is, such as an automation switched off.
            found.append(AutomationCore.model_validate(asked.model_dump(exclude={"owner_resource"})))
        except ValueError as error:
            raise ConfigError(f"{file}: automation {tree.get('name')}: {error}") from error
    return found


def _require_known(automation: AutomationCore) -> None:
    """Refuse an action of a type that Prefect does not know: its client lets it pass, its server does not."""
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
