"""Middleware of MLflow's scoring server: limits on the size of requests, and on how many are handled at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders

from dae.serving.errors import PATH, filter_errors, make_error

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

JSON_TYPES = ("application/json", "application/json;charset=utf-8")
MEGABYTE = 2**20
LARGE = MEGABYTE
"""Requests up to this number of bytes are handled in parallel; larger ones one at a time."""
WAITING = 8
"""Number of large requests that may be received or wait while another is handled."""
PATIENCE = 60
"""Seconds for a request to arrive, to wait for its turn, and to finish after the server was told to stop."""
DISCARDED = 64 * MEGABYTE
"""At least this many bytes of a refused request are read, since many clients read the answer only after sending everything."""
_at_work: ContextVar[list[Future[Any]] | None] = ContextVar("_at_work", default=None)
logger = logging.getLogger(__name__)


class RequestRefused(Exception):  # noqa: N818  (not a failure of the server)
    """A request is not passed to the model; the response says why."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.response = make_error(status, code, message)


class Middleware:
    """Filters requests to MLflow's scoring server, and its error answers to the client.

    It refuses bodies that are not JSON, and bodies that are too large, as early as possible. Large requests are handled one by
    one; a few may wait, and more are refused, since a parsed body takes many times its length. Every error is one JSON object
    with a code and a short message: MLflow's own errors would contain the request and a stack trace.
    """

    def __init__(self, app: ASGIApp, largest: int) -> None:
        self._app = app
        self._largest = largest
        self._turns = asyncio.Semaphore(1)
        self._large = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, by the ASGI protocol."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = False

        async def watched(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self._answer(scope, _Incoming(receive), watched)
        except asyncio.CancelledError:  # the server cancels requests only when it stops
            if answering:
                raise
            refused = make_error(503, "SHUTTING_DOWN", "the server is shutting down")
            await refused(scope, receive, send)
        except Exception:
            if answering:
                raise
            logger.exception("a request could not be handled")
            await make_error(500, "INTERNAL_ERROR", "the server failed; its log says how")(scope, receive, send)

    async def _answer(self, scope: Scope, receive: _Incoming, send: Send) -> None:
        if (scope["method"], scope["path"]) != ("POST", PATH):
            await self._app(scope, receive, filter_errors(None, scope, receive, send))
            return
        try:
            with ExitStack() as stack:
                if (body := await self._body(scope, receive, stack)) is None:
                    return
                MutableHeaders(scope=scope)["content-type"] = JSON_TYPES[0]
                replayed = _replayed(body, receive)
                if len(body) <= LARGE:
                    await self._app(scope, replayed, filter_errors(body, scope, receive, send))
                else:
                    del body
                    async with self._turn():
                        await self._app(scope, replayed, filter_errors(None, scope, receive, send))
        except RequestRefused as refused:
            await _turn_away(refused.response, max(4 * self._largest, DISCARDED), receive, send)

    async def _body(self, scope: Scope, receive: _Incoming, stack: ExitStack) -> bytes | None:
        """Return the body, or None if the client has disconnected. A large body takes a place in the queue."""
        headers = Headers(scope=scope)
        content_type = headers.get("content-type", "").lower().replace(" ", "").replace('"', "")
        if content_type not in JSON_TYPES:
            rule = "the content type must be application/json"
            raise RequestRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", rule)
        length, body, large = int(headers.get("content-length", 0)), bytearray(), False
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    if length > self._largest:
                        rule = f"a request may have {self._largest} bytes"
                        raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "REQUEST_TOO_LARGE", rule)
                    if length > LARGE and not large:
                        large = True
                        stack.enter_context(self._place())
                    if receive.ended:
                        return bytes(body)
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    length = max(length, len(body))
        except TimeoutError as error:
            rule = f"a request must have come within {PATIENCE} seconds"
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, "REQUEST_TIMEOUT", rule) from error

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count a large request while it is received, waits or is handled."""
        if self._large > WAITING:
            rule = f"{WAITING} requests of more than {LARGE} bytes wait already; ask again later"
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, "BUSY", rule)
        self._large += 1
        try:
            yield
        finally:
            self._large -= 1

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until no other large request is handled, not even by a thread that MLflow no longer waits for."""
        try:
            await asyncio.wait_for(self._turns.acquire(), PATIENCE)
        except TimeoutError as error:
            rule = f"other large requests took {PATIENCE} seconds; ask again later"
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, "BUSY", rule) from error
        work: list[Future[Any]] = []
        token = _at_work.set(work)
        loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            _at_work.reset(token)
            if unfinished := [future for future in work if not future.done()]:
                unfinished[-1].add_done_callback(lambda _: loop.call_soon_threadsafe(self._turns.release))
            else:
                self._turns.release()


class _Incoming:
    """A client's channel, which records whether the body has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = not message.get("more_body", False)
        return message


async def _turn_away(response: Response, limit: int, receive: _Incoming, send: Send) -> None:
    """Answer at once, but close the connection only after the client has sent everything, or `limit` bytes."""
    headers = [*response.raw_headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    try:
        async with asyncio.timeout(PATIENCE):
            while limit > 0 and not receive.ended:
                limit -= len((await receive()).get("body", b""))
    except (TimeoutError, asyncio.CancelledError):
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a channel that first yields a body that was already read, then the messages of the client."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


class Workers(ThreadPoolExecutor):
    """Threads whose futures are listed in `_at_work`, to know when work has really ended: MLflow stops waiting earlier."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in a thread, as `ThreadPoolExecutor` does."""
        future = super().submit(fn, *args, **kwargs)
        if (work := _at_work.get()) is not None:
            work.append(future)
        return future
