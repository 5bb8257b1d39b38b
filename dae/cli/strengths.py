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
            help="models:/NAME@ALIAS, a version number or a run id. Can be repeated to compare models.",
        ),
    ] = None,
    split: Annotated[Literal["validation", "test"], typer.Option(help="Held-out images to use.")] = "test",
    images: Annotated[int, typer.Option(min=1, help="Largest number of images.")] = 2000,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Also write the table to this file.", show_default=False)
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also write the figure to this file.", show_default=False)
    ] = None,
) -> None:
    """Score models at fixed strengths of each kind of noise, inside and outside the range of their training.

    Without --model, the model is models:/dae@champion.
    Images, kinds of noise and seed come from the run of the first model.
    The table and the figure are logged to that run.
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
    header, *lines = rows
    styles = ["bold" if line[2] == "inside" else None for line in lines]
    options.print_table(header, lines, right=header[3:], styles=styles)
