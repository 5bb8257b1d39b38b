"""Differences between the objects of the Prefect server and those the files specify: one line for each field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import BlockDocument
from prefect.client.schemas.objects import WorkPool as ServerPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import Automation, AutomationCore

from dae.schemas import FrozenModel
from flows.deployment.spec import Deployment, WorkPool, flatten_steps, without_empty

MISSING = "missing"


class DeploymentDiff(FrozenModel):
    """An object of the server and its differences: one line for each field, or only `MISSING` if it does not exist."""

    kind: str
    name: str
    differences: tuple[str, ...]


def compare_pool(specified: WorkPool, current: ServerPool | None) -> DeploymentDiff:
    """Compare a work pool."""
    fields = current and {
        "name": current.name,
        "type": current.type,
        "concurrency_limit": current.concurrency_limit,
        "paused": current.is_paused,
    }
    return _item("work pool", specified.name, specified.model_dump(mode="json"), fields)


def compare_webhook(name: str, url: str, current: BlockDocument | None) -> DeploymentDiff:
    """Compare the block of the webhook. Its address is a secret and is not shown."""
    if current is None:
        return DeploymentDiff(kind="webhook", name=name, differences=(MISSING,))
    same = current.data.get("url") == url
    return DeploymentDiff(kind="webhook", name=name, differences=() if same else ("url: another than DAE_WEBHOOK_URL",))


def compare_deployment(specified: Deployment, current: DeploymentResponse | None) -> DeploymentDiff:
    """Compare a deployment."""
    fields = current and _compared_fields(current).model_dump(mode="json")
    return _item("deployment", specified.name, specified.model_dump(mode="json"), fields)


def compare_unspecified(current: DeploymentResponse) -> DeploymentDiff:
    """Return a deployment of this project that no file specifies, such as one that was removed. A paused one is accepted."""
    differences = () if current.paused else (f"not specified, and runs {current.entrypoint}",)
    return DeploymentDiff(kind="deployment", name=current.name, differences=differences)


def compare_automation(specified: AutomationCore, current: Sequence[Automation]) -> DeploymentDiff:
    """Compare an automation with those of its name. A disabled one is a difference, and so is a duplicate."""
    item = _item("automation", specified.name, _plain(specified), _plain(current[0]) if current else None)
    duplicates = (f"specified once, found {len(current)} times",) if len(current) > 1 else ()
    return item.model_copy(update={"differences": item.differences + duplicates})


def _compared_fields(current: DeploymentResponse) -> Deployment:
    """Return the fields of a deployment on the server that are compared."""
    limit, options = current.global_concurrency_limit, current.concurrency_options
    schedules = [
        (entry.schedule.cron, str(entry.schedule.timezone), str(entry.slug), bool(entry.active))
        if isinstance(entry.schedule, CronSchedule)
        else (str(entry.schedule), "", str(entry.slug), bool(entry.active))
        for entry in current.schedules
    ]
    return Deployment(
        name=current.name,
        entrypoint=current.entrypoint or "",
        description=current.description or "",
        tags=tuple(current.tags),
        work_pool=current.work_pool_name or "",
        job_variables=current.job_variables or {},
        parameters=current.parameters,
        parameter_schema=without_empty(current.parameter_openapi_schema or {}),
        pull=flatten_steps(current.pull_steps or ()),
        schedules=tuple(sorted(schedules)),
        concurrency=(limit.limit, options.collision_strategy.value) if limit and options else None,
        paused=bool(current.paused),
    )


def _plain(automation: AutomationCore) -> dict[str, Any]:
    """Return an automation without the fields that the server adds, such as the ids of its triggers."""
    core = AutomationCore.model_validate(automation.model_dump())
    tree: dict[str, Any] = _without_ids(core.model_dump(mode="json", exclude={"owner_resource"}))
    return tree


def _without_ids(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_ids(value) for key, value in tree.items() if key != "id"}
    if isinstance(tree, list):
        items = [_without_ids(item) for item in tree]
        return sorted(items) if all(isinstance(item, str) for item in items) else items
    return tree


def _item(kind: str, name: str, specified: Any, current: Any) -> DeploymentDiff:
    if current is None:
        return DeploymentDiff(kind=kind, name=name, differences=(MISSING,))
    lines = _lines(json.loads(json.dumps(specified)), json.loads(json.dumps(current)))
    return DeploymentDiff(kind=kind, name=name, differences=tuple(lines))


def _lines(specified: Any, current: Any, path: str = "") -> list[str]:
    """Return a line for each value that differs, with its path."""
    if isinstance(specified, dict) and isinstance(current, dict):
        keys = [*specified, *(key for key in current if key not in specified)]
        return [
            line
            for key in keys
            for line in _lines(specified.get(key), current.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if specified == current else [f"{path}: specified {_short(specified)}, found {_short(current)}"]


def _short(value: Any, max_length: int = 120) -> str:
    text = json.dumps(value)
    return text if len(text) <= max_length else f"{text[:max_length]} ..."
