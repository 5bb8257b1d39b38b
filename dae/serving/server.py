"""A stored model as a service: MLflow's own scoring server, in this process and behind a middleware."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.responses import Response

from dae import runtime
from dae.serving.middleware import PATIENCE, Middleware, Workers
from dae.tracking import models

if TYPE_CHECKING:
    from starlette.requests import Request

WORKERS = 4
"""Number of threads; each handles one request."""
PATHS = ("/invocations", "/ping", "/health", "/version")
STUCK = 5
"""Seconds after which worker threads are abandoned at the end; a library call in a thread cannot be stopped."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model and its location."""

    model: Any
    located: models.ModelLocation

    @property
    def name(self) -> str:
        """Describe the model for a person."""
        located = self.located
        version = f"version {located.version} of {located.name}" if located.version else located.uri
        return f"{version}, made by run {located.run_id}"


def load_served_model(reference: str) -> ServedModel:
    """Load a model and let it restore its own example once, so that the first client does not wait for the compilation.

    Parameters
    ----------
    reference : str
        As for `dae.tracking.models.locate_model`, but not a file. An alias is resolved once, here.

    Raises
    ------
    ModelError
        If there is no such model, or it was logged without `dae.tracking.pyfunc`.
    """
    if not re.fullmatch(r"(models|runs):/.+|[\w-]+", reference):
        kinds = "models:/NAME@ALIAS, models:/NAME/VERSION, a version number or a run id"
        raise models.ModelError(f"a served model must be a logged one, {kinds}; received {reference}")
    import mlflow.pyfunc

    located = models.locate_model(reference)
    runtime.import_keras()
    with runtime.silence_stderr():
        model = mlflow.pyfunc.load_model(located.uri, suppress_warnings=True)
        if "dae_scoring" not in model.loader_module:
            raise models.ModelError(f"{located.uri} was logged without serving code; train it again")
        model.predict(model.input_example)
    return ServedModel(model, located)


def run_server(model: Any, listening: socket.socket, largest: int, ready: Callable[[], None]) -> None:
    """Serve a model until SIGINT or SIGTERM. The process then exits even if a worker thread is stuck.

    Parameters
    ----------
    model : mlflow.pyfunc.PyFuncModel
    listening : socket
        A bound socket; it is closed at the end.
    largest : int
        Maximum number of bytes of a request.
    ready : callable
        Called when the server answers.
    """
    config = uvicorn.Config(make_app(model, largest), log_level="warning", timeout_graceful_shutdown=PATIENCE)
    for name in (signal.SIGINT, signal.SIGTERM):
        # After it has stopped, the server raises the signal again for the handler that was set before.
        signal.signal(name, lambda *_: None)
    server = _Server(config, ready)
    server.run([listening])
    server.end.cancel()


class _Server(uvicorn.Server):
    """Uvicorn's server with a callback when it answers, and a time limit for its threads at the end."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self.end = threading.Timer(STUCK, os._exit, (0,))
        self.end.daemon = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_default_executor(Workers(max_workers=WORKERS))
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self.end.start()
        await asyncio.sleep(0.1)  # so that cancelled requests are answered


def make_app(model: Any, largest: int) -> Middleware:
    """Return MLflow's scoring server for a model, behind a middleware that refuses requests of more than `largest` bytes."""
    from mlflow.pyfunc import scoring_server

    async def unreadable(_: Request, __: Exception) -> Response:
        return Response(status_code=400)

    app = scoring_server.init(model)
    app.router.redirect_slashes = False
    app.router.routes[:] = [route for route in app.router.routes if route.path in PATHS]  # without FastAPI's pages
    for error in (
        ValueError,
        RecursionError,
    ):  # from numbers of 5,000 digits or a thousand brackets
        app.add_exception_handler(error, unreadable)
    return Middleware(app, largest)
