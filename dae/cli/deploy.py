"""``dae deploy``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dae import command_lines
from dae.cli import options

if TYPE_CHECKING:
    from flows.deployment.diff import DeploymentDiff


def deploy(
    check: Annotated[bool, typer.Option("--check", help="Say what differs, and change nothing.")] = False,
    file: Annotated[
        Path | None, typer.Option(help="The deployments. [default: prefect.yaml]", show_default=False)
    ] = None,
    server: Annotated[
        Path | None,
        typer.Option(help="Work pools and automations. [default: deploy/server.yaml]", show_default=False),
    ] = None,
) -> None:
    """Create or update deployments, work pool, limits and automations on the Prefect server, twice without harm."""
    with options.reported():
        from dae import storage
        from flows.deployment import apply

        paths = (
            file or storage.project_home() / "prefect.yaml",
            server or storage.project_home() / "deploy" / "server.yaml",
        )
        items = apply.compare_with_server(*paths) if check else apply.deploy(*paths)
        for item in items:
            _print(item, check)
        differing = sum(bool(item.differences) for item in items)
        if not differing:
            typer.echo("Nothing differs.")
        elif check:
            deploy_command = command_lines.with_login(command_lines.dae_command("deploy"))
            typer.echo(f"{differing} of {len(items)} differ; {deploy_command} changes that.")
            raise typer.Exit(options.REFUSED)


def _print(item: DeploymentDiff, check: bool) -> None:
    missing = item.differences == ("missing",)
    told = {True: "missing" if check else "created", False: "differs" if check else "updated"}[missing]
    typer.echo(f"{told if item.differences else 'as asked':10}{item.kind:12}{item.name}")
    for line in item.differences if not missing else ():
        typer.echo(f"{'':22}{line}")
