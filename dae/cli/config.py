"""``dae config``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dae.cli import options


def config(
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a configuration instead.")] = False,
) -> None:
    """Print the complete configuration of a run as YAML, or the JSON schema."""
    from dae.config import loading
    from dae.config.schema import PipelineConfig

    if schema:
        typer.echo(json.dumps(PipelineConfig.model_json_schema(), indent=2))
        return
    with options.reported():
        typer.echo(loading.dump(loading.load(config, settings or [])), nl=False)
