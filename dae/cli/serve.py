"""``dae serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from dae.cli import options


def serve(
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="models:/NAME@ALIAS, a version number of dae, or a run id. Files are not served."
        ),
    ] = "models:/dae@champion",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 means all addresses of this machine.")
    ] = options.HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5001,
    max_request_mb: Annotated[int, typer.Option(min=1, help="Largest request in MiB. Larger ones are refused.")] = 16,
) -> None:
    """Serve a model over HTTP with MLflow's scoring server. Stop it with Ctrl-C.

    POST {"inputs": ...} to /invocations, with an array or base64 image files.
    GET /ping answers as soon as the model is loaded.
    """
    with options.reported(), options.claim(port, host) as listening:
        from dae.serving import errors, middleware, server

        served_model = server.load_served_model(model)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}{errors.PATH}"

        def print_address() -> None:
            typer.echo(f"Serving {served_model.name}: {address} (stop with Ctrl-C)")

        server.run_server(served_model.model, listening, max_request_mb * middleware.MEGABYTE, print_address)
