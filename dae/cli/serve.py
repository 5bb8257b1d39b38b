"""``dae serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from dae.cli import options


def serve(
    model: Annotated[
        str,
        typer.Option(metavar="MODEL", help="models:/NAME@ALIAS, a version number of dae, or a run id; never a file."),
    ] = "models:/dae@champion",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of this machine.")
    ] = options.HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5001,
    max_request_mb: Annotated[int, typer.Option(min=1, help="Refuse larger requests, in units of 2^20 bytes.")] = 16,
) -> None:
    """Serve a model over HTTP, on MLflow's scoring server, until interrupted.

    POST {"inputs": ...} to /invocations, with an array or image files in base64; /ping answers once the model is loaded.
    """
    with options.reported(), options.claim(port, host) as listening:
        from dae.serving import errors, middleware, server

        served = server.load_served_model(model)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}{errors.PATH}"

        def ready() -> None:
            typer.echo(f"Serving {served.name}: {address} (stop with Ctrl-C)")

        server.run_server(served.model, listening, max_request_mb * middleware.MEGABYTE, ready)
