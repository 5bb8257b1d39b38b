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
    check: Annotated[bool, typer.Option("--check", help="List what differs, and change nothing.")] = False,
    file: Annotated[Path | None, typer.Option(help="File of deployments.", show_default="prefect.yaml")] = None,
    server: Annotated[
        Path | None,
        typer.Option(help="File of work pools and automations.", show_default="deploy/server.yaml"),
    ] = None,
) -> None:
    """Create or update deployments, work pools, limits and automations on the Prefect server. It can be repeated safely."""
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
    state = {True: "missing" if check else "created", False: "differs" if check else "updated"}[missing]
    typer.echo(f"{state if item.differences else 'as asked':10}{item.kind:12}{item.name}")
    for line in item.differences if not missing else ():
        typer.echo(f"{'':22}{line}")
