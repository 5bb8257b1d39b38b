"""Options, endings and the console that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

ERROR, USAGE, REFUSED = 1, 2, 10

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


def fail(message: str, code: int) -> typer.Exit:
    """Print an error and return the exit to raise."""
    typer.secho("error: ", fg="red", err=True, nl=False)
    typer.echo(message, err=True)
    return typer.Exit(code)


@contextmanager
def reported() -> Iterator[None]:
    """Turn errors into one message and an exit code: 2 for a refused configuration, 1 for anything else."""
    from dae.config import ConfigError

    try:
        yield
    except typer.Exit:
        raise
    except ConfigError as error:
        raise fail(str(error), USAGE) from error
    except Exception as error:  # whatever it is, its message is for a person
        raise fail(f"{type(error).__name__}: {error}", ERROR) from error


def console() -> Console:
    """Return a console for tables; where there is no terminal it is wide, since a pipe need not cut anything short."""
    from rich.console import Console

    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = 200
    return made
