"""Deploying: create or update on the Prefect server what the files specify. What is up to date is not touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import httpx
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import BlockDocument
from prefect.client.schemas.objects import WorkPool as ServerPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.types import SecretDict
from pydantic import SecretStr

from dae import command_lines
from flows.deployment import diff, spec
from flows.deployment.diff import DeploymentDiff
from flows.deployment.spec import Deployment, WorkPool

WEBHOOK_BLOCK = "dae-notify"
WEBHOOK_URL = "DAE_WEBHOOK_URL"
JSON = SecretDict({"Content-Type": "application/json"})


class DeploymentError(RuntimeError):
    """The Prefect server cannot be reached, or refuses an object."""


def compare_with_server(deployments: Path, server: Path) -> list[DeploymentDiff]:
    """Return every object the files specify, with its differences from the server. Nothing is changed.

    Raises
    ------
    ConfigError
        If a file is invalid.
    DeploymentError
        If no server is configured, or it does not answer.
    """
    with connect_to_server() as client:
        webhook, specified = _webhook(client), spec.read_deployments(deployments)
        return [
            *(diff.compare_pool(pool, _pool(client, pool.name)) for pool in spec.read_work_pools(server)),
            *([diff.compare_webhook(WEBHOOK_BLOCK, _webhook_url(), webhook)] if _webhook_url() else []),
            *(diff.compare_deployment(deployment, _deployment(client, deployment)) for deployment in specified),
            *(diff.compare_unspecified(other) for other in _others(client, specified) if not other.paused),
            *(
                diff.compare_automation(automation, _automations(client, automation.name))
                for automation in spec.read_automations(server, _id(webhook))
            ),
        ]


def deploy(deployments: Path, server: Path) -> list[DeploymentDiff]:
    """Create or update what differs, and return every object with its differences from before.

    Raises
    ------
    ConfigError, DeploymentError
        As `compare_with_server` does, or if the server refuses something.
    """
    before = compare_with_server(deployments, server)
    differing = {item.kind for item in before if item.differences}
    with connect_to_server() as client:
        for pool in spec.read_work_pools(server):
            _put_pool(client, pool)
        if "webhook" in differing:
            Webhook(url=SecretStr(_webhook_url()), headers=JSON).save(WEBHOOK_BLOCK, overwrite=True)
        if "deployment" in differing:
            _prefect_deploy(deployments)
            specified = spec.read_deployments(deployments)
            _update_schedules(client, specified)
            for other in _others(client, specified):
                client.pause_deployment(other.id)
        for automation in spec.read_automations(server, _id(_webhook(client))):
            _put_automation(client, automation)
    return before


def _prefect_deploy(file: Path) -> None:
    """Run Prefect's own command on the file."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    completed = subprocess.run(command, cwd=file.resolve().parent, capture_output=True, text=True, check=False)
    if completed.returncode != 0:
        raise DeploymentError(
            f"prefect deploy ended with exit code {completed.returncode}: {(completed.stdout + completed.stderr)[-3000:]}"
        )


def _others(client: SyncPrefectClient, specified: list[Deployment]) -> list[DeploymentResponse]:
    """Return the deployments on the server that have a tag of this project, and that no file specifies."""
    keys = {(deployment.name, deployment.entrypoint) for deployment in specified}
    tags = {tag for deployment in specified for tag in deployment.tags}
    return [
        deployment
        for deployment in client.read_deployments(limit=200)
        if tags & set(deployment.tags) and (deployment.name, deployment.entrypoint) not in keys
    ]


def _update_schedules(client: SyncPrefectClient, specified: list[Deployment]) -> None:
    """Set whether each deployment is paused and each schedule active, and remove schedules that no file specifies.

    Prefect's command changes none of that.
    """
    for deployment in specified:
        active = {slug: on for _, _, slug, on in deployment.schedules}
        current = _deployment(client, deployment)
        if current is None:
            continue
        if bool(current.paused) != deployment.paused:
            (client.pause_deployment if deployment.paused else client.resume_deployment)(current.id)
        for schedule in current.schedules:
            if (on := active.get(str(schedule.slug))) is None:
                client.delete_deployment_schedule(current.id, schedule.id)
            elif on != schedule.active:
                client.update_deployment_schedule(current.id, schedule.id, active=on)


def _put_pool(client: SyncPrefectClient, pool: WorkPool) -> None:
    if (current := _pool(client, pool.name)) is None:
        create = WorkPoolCreate(name=pool.name, type=pool.type, concurrency_limit=pool.concurrency_limit)
        client.create_work_pool(create)
    elif current.type != pool.type:
        raise DeploymentError(f"work pool {pool.name} must be of type {pool.type}, is {current.type}: delete it first")
    elif diff.compare_pool(pool, current).differences:
        client.update_work_pool(
            pool.name, WorkPoolUpdate(concurrency_limit=pool.concurrency_limit, is_paused=pool.paused)
        )


def _put_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    current = _automations(client, automation.name)
    if not current:
        client.create_automation(automation)
    elif diff.compare_automation(automation, current[:1]).differences:
        client.update_automation(current[0].id, automation)
    # The server allows several automations of one name, and another process may have created one at the same moment.
    for duplicate in _automations(client, automation.name)[1:]:
        client.delete_automation(duplicate.id)


def connect_to_server() -> SyncPrefectClient:
    """Return a client of the configured server, after checking that the server answers.

    Raises
    ------
    DeploymentError
        If no server is configured, it does not answer, or it refuses the login.
    """
    if not (url := PREFECT_API_URL.value()):
        start = command_lines.make_command("services")
        raise DeploymentError(f"PREFECT_API_URL must name a Prefect server, received none; {start} starts one")
    client = get_client(sync_client=True)
    try:
        with client:
            client.read_work_pools(limit=1)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        rule = (
            "PREFECT_API_AUTH_STRING must be the server's" if status == httpx.codes.UNAUTHORIZED else "it must answer"
        )
        raise DeploymentError(f"PREFECT_API_URL {url}: {rule}, received HTTP status {status}") from error
    except httpx.HTTPError as error:
        raise DeploymentError(f"PREFECT_API_URL: no server answers at {url}: {error}") from error
    return get_client(sync_client=True)


def _pool(client: SyncPrefectClient, name: str) -> ServerPool | None:
    try:
        return client.read_work_pool(name)
    except ObjectNotFound:
        return None


def _deployment(client: SyncPrefectClient, specified: Deployment) -> DeploymentResponse | None:
    for deployment in client.read_deployments(limit=200):
        if deployment.name == specified.name and deployment.entrypoint == specified.entrypoint:
            return deployment
    return None


def _automations(client: SyncPrefectClient, name: str) -> list[Automation]:
    """Return the automations of a name, always in the same order."""
    return sorted(client.read_automations_by_name(name), key=lambda automation: automation.id)


def _webhook(client: SyncPrefectClient) -> BlockDocument | None:
    try:
        return client.read_block_document_by_name(WEBHOOK_BLOCK, "webhook", include_secrets=True)
    except ObjectNotFound:
        return None


def _id(block: BlockDocument | None) -> str | None:
    """Return the id of the webhook's block, or a placeholder if it is not created yet; None if no webhook is configured."""
    if block is not None:
        return str(block.id)
    return str(UUID(int=0)) if _webhook_url() else None


def _webhook_url() -> str:
    return os.environ.get(WEBHOOK_URL, "").strip()
