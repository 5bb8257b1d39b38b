"""Deploying: the Prefect server is made to hold what the files ask for; what it holds already is left alone."""

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
    """The Prefect server cannot be reached, or does not take what it is to hold."""


def compare_with_server(deployments: Path, server: Path) -> list[DeploymentDiff]:
    """Return everything the files ask for, with what differs on the server. Nothing is changed.

    Raises
    ------
    ConfigError
        If a file is refused.
    DeploymentError
        If no server is configured, or it does not answer.
    """
    with connect_to_server() as client:
        webhook, asked = _webhook(client), spec.read_deployments(deployments)
        return [
            *(diff.compare_pool(each, _pool(client, each.name)) for each in spec.read_work_pools(server)),
            *([diff.compare_webhook(WEBHOOK_BLOCK, _asked_webhook(), webhook)] if _asked_webhook() else []),
            *(diff.compare_deployment(each, _deployment(client, each)) for each in asked),
            *(diff.compare_unasked(each) for each in _others(client, asked) if not each.paused),
            *(
                diff.compare_automation(each, _automations(client, each.name))
                for each in spec.read_automations(server, _id(webhook))
            ),
        ]


def deploy(deployments: Path, server: Path) -> list[DeploymentDiff]:
    """Create or update what differs, and return everything with what differed before.

    Raises
    ------
    ConfigError, DeploymentError
        As `compare_with_server` does, or if the server refuses something.
    """
    before = compare_with_server(deployments, server)
    differing = {each.kind for each in before if each.differences}
    with connect_to_server() as client:
        for pool in spec.read_work_pools(server):
            _put_pool(client, pool)
        if "webhook" in differing:
            Webhook(url=SecretStr(_asked_webhook()), headers=JSON).save(WEBHOOK_BLOCK, overwrite=True)
        if "deployment" in differing:
            _prefect_deploy(deployments)
            asked = spec.read_deployments(deployments)
            _switch_on(client, asked)
            for other in _others(client, asked):
                client.pause_deployment(other.id)
        for automation in spec.read_automations(server, _id(_webhook(client))):
            _put_automation(client, automation)
    return before


def _prefect_deploy(file: Path) -> None:
    """Let Prefect's own command read the file."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    done = subprocess.run(command, cwd=file.resolve().parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DeploymentError(
            f"prefect deploy ended with exit code {done.returncode}: {(done.stdout + done.stderr)[-3000:]}"
        )


def _others(client: SyncPrefectClient, asked: list[Deployment]) -> list[DeploymentResponse]:
    """Return the deployments on the server that are this project's, by their tag, and that no file asks for."""
    named = {(each.name, each.entrypoint) for each in asked}
    tags = {tag for each in asked for tag in each.tags}
    found = client.read_deployments(limit=200)
    return [each for each in found if tags & set(each.tags) and (each.name, each.entrypoint) not in named]


def _switch_on(client: SyncPrefectClient, asked: list[Deployment]) -> None:
    """Set whether a deployment is paused and each schedule active, and remove schedules nobody asks for.

    Prefect's command leaves all of that as it finds it.
    """
    for each in asked:
        active = {slug: on for _, _, slug, on in each.schedules}
        found = _deployment(client, each)
        if found is None:
            continue
        if bool(found.paused) != each.paused:
            (client.pause_deployment if each.paused else client.resume_deployment)(found.id)
        for schedule in found.schedules:
            if (on := active.get(str(schedule.slug))) is None:
                client.delete_deployment_schedule(found.id, schedule.id)
            elif on != schedule.active:
                client.update_deployment_schedule(found.id, schedule.id, active=on)


def _put_pool(client: SyncPrefectClient, pool: WorkPool) -> None:
    if (found := _pool(client, pool.name)) is None:
        create = WorkPoolCreate(name=pool.name, type=pool.type, concurrency_limit=pool.concurrency_limit)
        client.create_work_pool(create)
    elif found.type != pool.type:
        raise DeploymentError(f"work pool {pool.name} must be of type {pool.type}, is {found.type}: delete it first")
    elif diff.compare_pool(pool, found).differences:
        client.update_work_pool(
            pool.name, WorkPoolUpdate(concurrency_limit=pool.concurrency_limit, is_paused=pool.paused)
        )


def _put_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    found = _automations(client, automation.name)
    if not found:
        client.create_automation(automation)
    elif diff.compare_automation(automation, found[:1]).differences:
        client.update_automation(found[0].id, automation)
    # The server takes any number of one name, and another may have made one at the same moment.
    for spare in _automations(client, automation.name)[1:]:
        client.delete_automation(spare.id)


def connect_to_server() -> SyncPrefectClient:
    """Return a client of the server that is configured, which answers.

    Raises
    ------
    DeploymentError
        If none is configured, or it does not answer, or does not let one in.
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


def _deployment(client: SyncPrefectClient, asked: Deployment) -> DeploymentResponse | None:
    for found in client.read_deployments(limit=200):
        if found.name == asked.name and found.entrypoint == asked.entrypoint:
            return found
    return None


def _automations(client: SyncPrefectClient, name: str) -> list[Automation]:
    """Return the automations of a name, in an order that is the same for all who ask."""
    return sorted(client.read_automations_by_name(name), key=lambda each: each.id)


def _webhook(client: SyncPrefectClient) -> BlockDocument | None:
    try:
        return client.read_block_document_by_name(WEBHOOK_BLOCK, "webhook", include_secrets=True)
    except ObjectNotFound:
        return None


def _id(block: BlockDocument | None) -> str | None:
    """Return the id of the webhook's block, or a stand-in for one that is yet to be made; None if none is asked for."""
    if block is not None:
        return str(block.id)
    return str(UUID(int=0)) if _asked_webhook() else None


def _asked_webhook() -> str:
    return os.environ.get(WEBHOOK_URL, "").strip()
