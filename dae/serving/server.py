"""A stored model as a service: MLflow's own scoring server, in this process and behind a guard."""

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
"""Threads, each with a request."""
PATHS = ("/invocations", "/ping", "/health", "/version")
STUCK = 5
"""Seconds that worker threads have after that; what a library does in one cannot be stopped."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model that answers, and where it lies."""

    model: Any
    located: models.ModelLocation

    @property
    def name(self) -> str:
        """Which model it is, for a person."""
        located = self.located
        what = f"version {located.version} of {located.name}" if located.version else located.uri
        return f"{what}, made by run {located.run_id}"


def load_served_model(reference: str) -> ServedModel:
    """Load a model, and have it restore its own example once, so that the first client need not wait for that.

    Parameters
    ----------
    reference : str
        As `dae.tracking.models.locate_model` takes it, never a file. An alias is looked up once, here.

    Raises
    ------
    ModelError
        If there is no such model, or it does not come with `dae.tracking.pyfunc`.
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
            raise models.ModelError(f"{located.uri} was logged without what serves it; train it anew")
        model.predict(model.input_example)
    return ServedModel(model, located)


def run_server(model: Any, listening: socket.socket, largest: int, ready: Callable[[], None]) -> None:
    """Serve a model until SIGINT or SIGTERM; a worker thread that is stuck then ends with the process.

    Parameters
    ----------
    model : mlflow.pyfunc.PyFuncModel
    listening : socket
        A bound one; it is closed at the end.
    largest : int
        Bytes a request may have.
    ready : callable
        Called once clients are answered.
    """
    config = uvicorn.Config(make_app(model, largest), log_level="warning", timeout_graceful_shutdown=PATIENCE)
    for name in (signal.SIGINT, signal.SIGTERM):
        # Once it has ended, the server raises again the signal that ended it, for whoever had asked for it before.
        signal.signal(name, lambda *_: None)
    server = _Server(config, ready)
    server.run([listening])
    server.end.cancel()


class _Server(uvicorn.Server):
    """Uvicorn's server, which says when it answers, and does not wait for ever for its threads."""

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
        await asyncio.sleep(0.1)  # for requests that were cancelled to be answered


def make_app(model: Any, largest: int) -> Middleware:
    """Return MLflow's scoring server for a model, behind a guard that refuses requests of more than `largest` bytes."""
    from mlflow.pyfunc import scoring_server

    async def unreadable(_: Request, __: Exception) -> Response:
        return Response(status_code=400)

    app = scoring_server.init(model)
    app.router.redirect_slashes = False
    app.router.routes[:] = [route for route in app.router.routes if route.path in PATHS]  # without FastAPI's own pages
    for error in (ValueError, RecursionError):  # a number of 5,000 digits, a thousand brackets: MLflow expects neither
        app.add_exception_handler(error, unreadable)
    return Middleware(app, largest)
