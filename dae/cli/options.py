"""Options, endings and the console that several commands share."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from dae.promotion.schemas import ModelVersion
    from dae.schemas import Scores

ERROR, USAGE, REFUSED = 1, 2, 10
HOST = "127.0.0.1"

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="A YAML file; what it leaves out has its default.", show_default=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change one value, such as train.epochs=3. Can be repeated.",
        show_default=False,
    ),
]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Judge, and move no alias.")]
Force = Annotated[
    bool, typer.Option("--force", help="Promote a model that works whatever the verdict is. Needs --reason.")
]
Reason = Annotated[str | None, typer.Option(help="Why; kept with the version and in the ledger.", show_default=False)]
ApprovalHours = Annotated[
    float | None,
    typer.Option(help="Wait for so many hours for a person's approval before promoting.", show_default=False),
]

Summary = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Append the verdict to a Markdown file, such as a CI job's summary.", show_default=False
    ),
]
Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as JUnit XML.", show_default=False)]
MODEL_NAME = "dae"


def _model_name(name: str) -> str:
    """Refuse what no registered model can be called; MLflow's own messages on it are hard to understand."""
    if not re.fullmatch(r"[\w -]+", name):
        raise typer.BadParameter(f"must be letters, digits, spaces, _ and -, received {name}")
    return name


Name = Annotated[str, typer.Option("--name", callback=_model_name, help="The registered model.")]


def switches(dry_run: bool, force: bool, reason: str | None, approval_hours: float | None) -> list[str]:
    """Return the gate's switches as settings.

    Raises
    ------
    ConfigError
        If a promotion is forced without a reason, or there is a reason without force.
    """
    import json

    from dae.config.schema import ConfigError

    if force and not (reason or "").strip():
        raise ConfigError("--force needs --reason, a text that says why, received none")
    if reason is not None and not force:
        raise ConfigError("--reason goes with --force, received it alone")
    found = ["gate.dry_run=true"] if dry_run else []
    found += [f"gate.force={json.dumps(reason)}"] if force else []
    return found + ([f"gate.approval_hours={approval_hours}"] if approval_hours is not None else [])


def fail(message: str, code: int) -> typer.Exit:
    """Print an error and return the exit to raise."""
    typer.secho("error: ", fg="red", err=True, nl=False)
    typer.echo(message, err=True)
    return typer.Exit(code)


@contextmanager
def reported() -> Iterator[None]:
    """Turn errors into one message and an exit code: 2 for a refused configuration, 1 for anything else."""
    from dae.config.schema import ConfigError

    try:
        yield
    except typer.Exit:
        raise
    except ConfigError as error:
        raise fail(str(error), USAGE) from error
    except Exception as error:  # whatever it is, its message is for a person
        raise fail(f"{type(error).__name__}: {error}", ERROR) from error


def claim(port: int, host: str = HOST) -> socket.socket:
    """Return a socket that holds a free port, and refuses connections until it is listened on.

    Raises
    ------
    Exit
        If the port is in use, or the address is none of this machine's.
    """
    # With the protocol named asyncio sends at once; otherwise an answer waits 40 ms for the client's acknowledgement.
    claimed = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, proto=socket.IPPROTO_TCP)
    try:
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claimed.bind((host, port))
    except OSError as error:
        claimed.close()
        message = f"port {port} must be free on {host}; choose another with --port ({error.strerror})"
        raise fail(message, ERROR) from error
    return claimed


def console() -> Console:
    """Return a console for tables; where there is no terminal it is wide, since a pipe need not cut anything short."""
    from rich.console import Console

    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = 200
    return made


def show_scores(console: Console, title: str, scores: Scores) -> None:
    """Print a table of scores by kind of noise."""
    from rich.markup import escape
    from rich.table import Table

    from dae.evaluation import tables

    table = Table(*tables.SCORES_HEADER, title=f"\n{escape(title)}", title_justify="left", title_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in tables.score_rows(scores):
        table.add_row(*row, style="bold" if row[0] == "all" else None)
    console.print(table)


def show_decision(console: Console, version: ModelVersion) -> None:
    """Print every check of the gate, and what was decided."""
    from rich.markup import escape

    from dae.promotion import reports

    for passed, reason in reports.list_checks(version.verdict):
        console.print(f"  [{'green]passed' if passed else 'red]failed'}[/] {escape(reason)}", soft_wrap=True)
    event = version.decision.event
    colour = {"promoted": "green", "refused": "red", "forced": "yellow"}[event]
    console.print(f"\n[bold {colour}]{escape(reports.headline(version))}[/]", soft_wrap=True)


def require_keras_backend() -> None:
    """Refuse a ``KERAS_BACKEND`` that is not supported or not installed, before anything is done with it.

    Raises
    ------
    ConfigError
        Naming what was asked for and what to do.
    """
    from dae import command_lines
    from dae.config.schema import ConfigError

    asked = os.environ["KERAS_BACKEND"]
    if asked not in ("tensorflow", "jax"):
        raise ConfigError(f"KERAS_BACKEND must be tensorflow or jax, received {asked!r}")
    if asked == "jax" and importlib.util.find_spec("jax") is None:
        raise ConfigError(
            f"KERAS_BACKEND is jax, which is not installed; install it with: {command_lines.install_command('jax')}"
        )
