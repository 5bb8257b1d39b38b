"""``dae strengths``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dae.cli import options

if TYPE_CHECKING:
    from dae.evaluation.tables import Row


def strengths(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="models:/NAME@ALIAS, a version number or a run id. Can be repeated: others stand beside the first.",
        ),
    ] = None,
    split: Annotated[Literal["validation", "test"], typer.Option(help="Held-out images to use.")] = "test",
    images: Annotated[int, typer.Option(min=1, help="How many of them, at most.")] = 2000,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write the table here, too.", show_default=False)
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Write the figure here, too.", show_default=False)
    ] = None,
) -> None:
    """Score models at fixed strengths of each kind of noise, inside and outside of what they were trained on.

    Without --model it is models:/dae@champion. The images, the kinds of noise and the seed are those of the first model's run,
    and the table and the figure are logged there.
    """
    uris = model or ["models:/dae@champion"]
    with options.reported():
        _require_writable("--markdown", markdown, ".md")
        _require_writable("--picture", picture, ".png")
        from dae import storage
        from dae.evaluation import figures, robustness, tables

        table, figure = robustness.compare_robustness(uris, split, images)
        if picture is not None:
            figures.save_figure(figure, picture)
        rows = list(robustness.robustness_rows(table))
        if markdown is not None:
            storage.write_text(markdown, tables.markdown_table(rows) + "\n")
    _print(rows)
    typer.echo(f"Logged to the run of {uris[0]}: figures/strengths.png and strengths.csv")


def _require_writable(option: str, path: Path | None, suffix: str) -> None:
    if path is not None and (path.suffix != suffix or not os.access(path.parent, os.W_OK)):
        message = f"{option}: must be a {suffix} file in a folder that exists and may be written to, received {path}"
        raise options.fail(message, options.USAGE)


def _print(rows: list[Row]) -> None:
    from rich.markup import escape
    from rich.table import Table

    shown = Table(*map(escape, rows[0]))
    for column in shown.columns[3:]:
        column.justify = "right"
    for row in rows[1:]:
        shown.add_row(*map(escape, row), style="bold" if row[2] == "inside" else None)
    options.console().print(shown)
