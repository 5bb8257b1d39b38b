"""Options and endings that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

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
def refusing_bad_config() -> Iterator[None]:
    """Turn a refused configuration into exit code 2."""
    from dae.config import ConfigError

    try:
        yield
    except ConfigError as error:
        raise fail(str(error), USAGE) from error
