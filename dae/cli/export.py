"""``dae export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dae.cli import options


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="models:/NAME@ALIAS, models:/NAME/VERSION, a version number of dae, a run id, or a .keras file.",
            show_default=False,
        ),
    ],
    onnx: Annotated[Path, typer.Option("--onnx", metavar="FILE", help="The ONNX file to write.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Export a model to ONNX. The file is written only if its outputs equal those of Keras."""
    with options.reported():
        from dae.inference import onnx_export

        typer.echo(onnx_export.export_model(model, onnx, overwrite=overwrite))
