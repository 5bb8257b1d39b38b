"""``dae services``: the servers on which a team runs the pipeline."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dae import command_lines
from dae.cli import options
from dae.cli.help import Command, Group, epilog

app = typer.Typer(
    help="Run PostgreSQL, MLflow, Prefect and a worker on this machine. dae train works without them.",
    cls=Group,
    epilog=epilog("dae services up", "dae services status"),
    no_args_is_help=True,
)


@app.command(cls=Command, epilog=epilog("dae services up"))
def up() -> None:
    """Start all services, wait until they are healthy, and print their addresses."""
    with options.reported():
        from dae.services import lifecycle, settings

        service_settings = settings.load_or_make()
        lifecycle.up(service_settings, typer.echo)
        _print_status()
        typer.echo(f"\nLog in to both pages as admin; the passwords are in {settings.path()}.")
        login = shlex.quote(str(service_settings.folder / "client.env"))
        typer.echo(f"Use them from a shell:  set -a; . {login}; set +a")
        typer.echo(f"Then:  {command_lines.dae_command('deploy')}")


@app.command(cls=Command, epilog=epilog("dae services down"))
def down() -> None:
    """Stop the services that were started here. Their data is kept."""
    with options.reported():
        from dae.services import lifecycle, settings

        has_settings = settings.path().exists()
        service_settings = settings.load() if has_settings else settings.without_secrets()
        if not has_settings and not service_settings.folder.exists():
            typer.echo("No services were ever started here.")
            return
        stopped = lifecycle.down(service_settings)
        typer.echo(f"Stopped: {', '.join(stopped)}." if stopped else "No services are running.")


@app.command(cls=Command, epilog=epilog("dae services status"))
def status() -> None:
    """Print the address and the health of each service. The exit code is 1 if one is not healthy."""
    with options.reported():
        if not _print_status():
            raise typer.Exit(options.ERROR)


Folder = Annotated[Path, typer.Argument(help="The folder of the backup.", show_default=False)]


@app.command(cls=Command, epilog=epilog("dae services backup /backups/monday"))
def backup(folder: Folder) -> None:
    """Write the databases, the artifacts and the passwords to a new folder. The services keep running."""
    with options.reported():
        from dae.services import backup, settings

        backup.back_up(settings.load(), folder.resolve(), typer.echo)
        typer.echo(f"Backed up to {folder}. The backup holds the passwords: keep it where nobody else can read it.")


@app.command(cls=Command, epilog=epilog("dae services restore /backups/monday"))
def restore(
    folder: Folder,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Replace all data of the services with a backup. The services must be down."""
    if not yes and not typer.confirm("This replaces all data of the services. Continue?"):
        raise typer.Exit(options.ERROR)
    with options.reported():
        from dae.services import backup

        backup.restore(folder.resolve(), typer.echo)
        typer.echo(f"Restored. Start the services: {command_lines.make_command('services')}")


@app.command(cls=Command, epilog=epilog("dae services upgrade"))
def upgrade() -> None:
    """Migrate the databases to the installed MLflow and Prefect. The services must be down. Make a backup first."""
    with options.reported():
        from dae.services import backup, settings

        backup.upgrade(settings.load(), typer.echo)
        typer.echo(f"Upgraded. Start the services: {command_lines.make_command('services')}")


def _print_status() -> bool:
    """Print a line for each service. Return whether all are healthy."""
    from rich.markup import escape

    from dae.services import lifecycle, settings

    console = options.stdout_console()
    states = lifecycle.report(settings.load())
    for name, (address, state) in states.items():
        colour = "green" if state == "healthy" else "red"
        console.print(f"{name:10}{escape(address):28}[{colour}]{escape(state)}[/]", soft_wrap=True)
    return all(state == "healthy" for _, state in states.values())
