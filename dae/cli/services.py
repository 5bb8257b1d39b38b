"""``dae services``: the servers a team runs the pipeline on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dae import command_lines
from dae.cli import options

app = typer.Typer(
    help="PostgreSQL, MLflow, Prefect and a worker, on this machine; dae train needs none of them.",
    no_args_is_help=True,
)


@app.command()
def up() -> None:
    """Start what does not run, wait until all is healthy, and print the addresses."""
    with options.reported():
        from dae.services import lifecycle, settings

        found = settings.load_or_make()
        lifecycle.up(found, typer.echo)
        _show()
        typer.echo(f"\nLog in to both pages as admin; the passwords are in {settings.path()}.")
        login = shlex.quote(str(found.folder / "client.env"))
        typer.echo(f"Point a shell at them:  set -a; . {login}; set +a")
        typer.echo(f"Then:  {command_lines.dae_command('deploy')}")


@app.command()
def down() -> None:
    """Stop what was started here, and nothing else. What it keeps stays."""
    with options.reported():
        from dae.services import lifecycle, settings

        found = settings.load() if settings.path().exists() else settings.without_secrets()
        if not settings.path().exists() and not found.folder.exists():
            typer.echo("No services were ever started here.")
            return
        stopped = lifecycle.down(found)
        typer.echo(f"Stopped: {', '.join(stopped)}." if stopped else "No services are running.")


@app.command()
def status() -> None:
    """Show the addresses, and whether each service is healthy; exit code 1 if one is not."""
    with options.reported():
        if not _show():
            raise typer.Exit(options.ERROR)


Folder = Annotated[Path, typer.Argument(help="The folder of the backup.", show_default=False)]


@app.command()
def backup(folder: Folder) -> None:
    """Write the databases, the artifacts and the passwords into a new folder. The services go on."""
    with options.reported():
        from dae.services import backup, settings

        backup.back_up(settings.load(), folder.resolve(), typer.echo)
        typer.echo(f"Backed up into {folder}. It holds the passwords: keep it where nobody else can read it.")


@app.command()
def restore(
    folder: Folder,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Put a backup in place of all that the services keep. They must be down."""
    if not yes and not typer.confirm("Everything the services keep now is replaced. Go on?"):
        raise typer.Exit(options.ERROR)
    with options.reported():
        from dae.services import backup

        backup.restore(folder.resolve(), typer.echo)
        typer.echo(f"Restored. Start the services: {command_lines.make_command('services')}")


@app.command()
def upgrade() -> None:
    """Bring the databases to what the installed MLflow and Prefect expect. The services must be down; back up first."""
    with options.reported():
        from dae.services import backup, settings

        backup.upgrade(settings.load(), typer.echo)
        typer.echo(f"Upgraded. Start the services: {command_lines.make_command('services')}")


def _show() -> bool:
    """Print a line for each service; tell whether all are healthy."""
    from rich.markup import escape

    from dae.services import lifecycle, settings

    console = options.console()
    told = lifecycle.report(settings.load())
    for name, (address, state) in told.items():
        colour = "green" if state == "healthy" else "red"
        console.print(f"{name:10}{escape(address):28}[{colour}]{escape(state)}[/]", soft_wrap=True)
    return all(state == "healthy" for _, state in told.values())
