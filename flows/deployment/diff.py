"""How what the Prefect server holds differs from what the files ask for: one line a field."""

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
    """A thing the server is to hold, and how what it holds differs: one line a field, `MISSING` alone if it is not there."""

    kind: str
    name: str
    differences: tuple[str, ...]


def compare_pool(asked: WorkPool, found: ServerPool | None) -> DeploymentDiff:
    """Compare a work pool."""
    held = found and {
        "name": found.name,
        "type": found.type,
        "concurrency_limit": found.concurrency_limit,
        "paused": found.is_paused,
    }
    return _item("work pool", asked.name, asked.model_dump(mode="json"), held)


def compare_webhook(name: str, asked: str, found: BlockDocument | None) -> DeploymentDiff:
    """Compare the block of the webhook; its address is a secret, and is not shown."""
    if found is None:
        return DeploymentDiff(kind="webhook", name=name, differences=(MISSING,))
    same = found.data.get("url") == asked
    return DeploymentDiff(kind="webhook", name=name, differences=() if same else ("url: another than DAE_WEBHOOK_URL",))


def compare_deployment(asked: Deployment, found: DeploymentResponse | None) -> DeploymentDiff:
    """Compare a deployment."""
    return _item(
        "deployment", asked.name, asked.model_dump(mode="json"), found and _held(found).model_dump(mode="json")
    )


def compare_unasked(found: DeploymentResponse) -> DeploymentDiff:
    """Return a deployment of this project that no file asks for, as when it was removed there; paused it differs no more."""
    left = () if found.paused else (f"asked for nowhere, and runs {found.entrypoint}",)
    return DeploymentDiff(kind="deployment", name=found.name, differences=left)


def compare_automation(asked: AutomationCore, found: Sequence[Automation]) -> DeploymentDiff:
    """Compare an automation with those of its name; one that was switched off differs, and so does a second one."""
    item = _item("automation", asked.name, _plain(asked), _plain(found[0]) if found else None)
    spare = (f"asked for once, found {len(found)} times",) if len(found) > 1 else ()
    return item.model_copy(update={"differences": item.differences + spare})


def _held(found: DeploymentResponse) -> Deployment:
    """Return what of a deployment on the server is compared."""
    limit, options = found.global_concurrency_limit, found.concurrency_options
    schedules = [
        (each.schedule.cron, str(each.schedule.timezone), str(each.slug), bool(each.active))
        if isinstance(each.schedule, CronSchedule)
        else (str(each.schedule), "", str(each.slug), bool(each.active))
        for each in found.schedules
    ]
    return Deployment(
        name=found.name,
        entrypoint=found.entrypoint or "",
        description=found.description or "",
        tags=tuple(found.tags),
        work_pool=found.work_pool_name or "",
        job_variables=found.job_variables or {},
        parameters=found.parameters,
        parameter_schema=without_empty(found.parameter_openapi_schema or {}),
        pull=flatten_steps(found.pull_steps or ()),
        schedules=tuple(sorted(schedules)),
        concurrency=(limit.limit, options.collision_strategy.value) if limit and options else None,
        paused=bool(found.paused),
    )


def _plain(automation: AutomationCore) -> dict[str, Any]:
    """Return an automation without what the server adds to it, such as the ids of its triggers."""
    core = AutomationCore.model_validate(automation.model_dump())
    tree: dict[str, Any] = _without_ids(core.model_dump(mode="json", exclude={"owner_resource"}))
    return tree


def _without_ids(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_ids(value) for key, value in tree.items() if key != "id"}
    if isinstance(tree, list):
        made = [_without_ids(each) for each in tree]
        return sorted(made) if all(isinstance(each, str) for each in made) else made
    return tree


def _item(kind: str, name: str, asked: Any, held: Any) -> DeploymentDiff:
    lines = [MISSING] if held is None else _lines(json.loads(json.dumps(asked)), json.loads(json.dumps(held)))
    return DeploymentDiff(kind=kind, name=name, differences=tuple(lines))


def _lines(asked: Any, held: Any, path: str = "") -> list[str]:
    """Return a line for each value that differs, under its path."""
    if isinstance(asked, dict) and isinstance(held, dict):
        keys = [*asked, *(key for key in held if key not in asked)]
        return [
            line for key in keys for line in _lines(asked.get(key), held.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if asked == held else [f"{path}: asked for {_short(asked)}, found {_short(held)}"]


def _short(value: Any, most: int = 120) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]} ..."
