"""Options, exit codes, error messages and tables that several commands share."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
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
    typer.Option(
        "--config", "-c", help="A YAML file. Keys that are not in it keep their defaults.", show_default=False
    ),
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

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the verdict, and move no alias.")]
Force = Annotated[
    bool, typer.Option("--force", help="Promote a working model whatever the verdict is. Needs --reason.")
]
Reason = Annotated[
    str | None,
    typer.Option(
        help="The reason for --force. It is stored with the version and in the audit log.", show_default=False
    ),
]
ApprovalHours = Annotated[
    float | None,
    typer.Option(help="Hours to wait for a person's approval before the promotion.", show_default=False),
]

Summary = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Append the verdict to a Markdown file, such as the summary of a CI job.",
        show_default=False,
    ),
]
Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as JUnit XML.", show_default=False)]
MODEL_NAME = "dae"


def _model_name(name: str) -> str:
    """Refuse invalid names of registered models; MLflow's own messages on them are hard to understand."""
    if not re.fullmatch(r"[\w -]+", name):
        raise typer.BadParameter(f"must be letters, digits, spaces, _ and -, received {name}")
    return name


Name = Annotated[str, typer.Option("--name", callback=_model_name, metavar="MODEL", help="The registered model.")]


def gate_settings(dry_run: bool, force: bool, reason: str | None, approval_hours: float | None) -> list[str]:
    """Return the options of the gate as settings.

    Raises
    ------
    ConfigError
        If ``--force`` has no reason, or ``--reason`` is given without ``--force``.
    """
    import json

    from dae.config.schema import ConfigError

    if force and not (reason or "").strip():
        raise ConfigError("--force needs --reason, a text that says why, received none")
    if reason is not None and not force:
        raise ConfigError("--reason goes with --force, received it alone")
    settings = ["gate.dry_run=true"] if dry_run else []
    settings += [f"gate.force={json.dumps(reason)}"] if force else []
    return settings + ([f"gate.approval_hours={approval_hours}"] if approval_hours is not None else [])


def fail(message: str, code: int) -> typer.Exit:
    """Print an error and return the exit to raise."""
    typer.secho("error: ", fg="red", err=True, nl=False)
    typer.echo(message, err=True)
    return typer.Exit(code)


@contextmanager
def reported() -> Iterator[None]:
    """Turn an error into one message and an exit code: 2 for a bad configuration, 1 for anything else."""
    from dae.config.schema import ConfigError

    try:
        yield
    except typer.Exit:
        raise
    except ConfigError as error:
        raise fail(str(error), USAGE) from error
    except Exception as error:  # people read a message rather than a traceback
        raise fail(f"{type(error).__name__}: {error}", ERROR) from error


def claim(port: int, host: str = HOST) -> socket.socket:
    """Return a socket that reserves a free port. It refuses connections until the server listens on it.

    Raises
    ------
    Exit
        If the port is in use, or this machine does not have the address.
    """
    # asyncio sends at once if the protocol is named; otherwise an answer waits 40 ms for the client's acknowledgement.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, proto=socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        message = f"port {port} must be free on {host}; choose another with --port ({error.strerror})"
        raise fail(message, ERROR) from error
    return listener


def stdout_console() -> Console:
    """Return a console on standard output. It is wide if that is no terminal, so that files and pipes get whole lines."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    return console


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    right: Collection[str] = (),
    styles: Sequence[str | None] | None = None,
) -> None:
    """Print a table on standard output. Cells are plain text; long ones are folded, never cut.

    Parameters
    ----------
    header : sequence of str
        The names of the columns.
    rows : iterable of sequence of str
        The cells of each row, as many as there are columns.
    title : str, optional
        A title above the table, after an empty line.
    right : collection of str
        The columns to align on the right.
    styles : sequence of str or None, optional
        A rich style for each row, such as ``"bold"``.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"\n{escape(title)}" if title else None, title_justify="left", title_style="bold")
    for name in header:
        table.add_column(escape(name), overflow="fold", justify="right" if name in right else "left")
    for index, row in enumerate(rows):
        table.add_row(*map(escape, row), style=styles[index] if styles else None)
    stdout_console().print(table)


def print_scores(title: str, scores: Scores) -> None:
    """Print a table of scores by kind of noise."""
    from dae.evaluation import tables

    header, rows = tables.score_header(scores), list(tables.score_rows(scores))
    styles = ["bold" if row[0] == "all" else None for row in rows]
    print_table(header, rows, title=title, right=header[1:], styles=styles)


def print_decision(version: ModelVersion) -> None:
    """Print every check of the gate, and the decision."""
    from rich.markup import escape

    from dae.promotion import reports

    console = stdout_console()
    for passed, reason in reports.list_checks(version.verdict):
        console.print(f"  [{'green]passed' if passed else 'red]failed'}[/] {escape(reason)}", soft_wrap=True)
    event = version.decision.event
    colour = {"promoted": "green", "refused": "red", "forced": "yellow"}[event]
    console.print(f"\n[bold {colour}]{escape(reports.headline(version))}[/]", soft_wrap=True)


def require_keras_backend() -> None:
    """Refuse a ``KERAS_BACKEND`` that is not supported or not installed, before Keras reads it.

    Raises
    ------
    ConfigError
        If it is neither tensorflow nor jax, or jax is not installed.
    """
    from dae import command_lines
    from dae.config.schema import ConfigError

    backend = os.environ["KERAS_BACKEND"]
    if backend not in ("tensorflow", "jax"):
        raise ConfigError(f"KERAS_BACKEND must be tensorflow or jax, received {backend!r}")
    if backend == "jax" and importlib.util.find_spec("jax") is None:
        raise ConfigError(
            f"KERAS_BACKEND is jax, which is not installed; install it with: {command_lines.install_command('jax')}"
        )
