"""The guard before MLflow's scoring server: how large requests may be, and how many of them are handled at a time."""

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
"""Bytes up to which requests are handled beside each other; larger ones wait for their turn."""
WAITING = 8
"""Large requests that may be received or wait while another is handled."""
PATIENCE = 60
"""Seconds for a request to come, to wait for its turn, and to be finished once the server is told to end."""
DISCARDED = 64 * MEGABYTE
"""Bytes of a refused request that are read at least, since many clients read an answer only once they have sent everything."""
_at_work: ContextVar[list[Future[Any]] | None] = ContextVar("_at_work", default=None)
logger = logging.getLogger(__name__)


class RequestRefused(Exception):  # noqa: N818 - the request is at fault, or its moment
    """Why a request is not given to the model."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.response = make_error(status, code, message)


class Middleware:
    """Sees a request before MLflow's scoring server does, and what the server says against it before the client.

    It refuses what is not JSON, and what is too large as soon as that is known. Large requests are handled one at a time while
    a few wait, and more are refused, since a body takes many times its length once it is parsed. Every refusal is one JSON
    object with a code and a short message: MLflow's own would hold the request, and the stack.
    """

    def __init__(self, app: ASGIApp, largest: int) -> None:
        self._app = app
        self._largest = largest
        self._turns = asyncio.Semaphore(1)
        self._large = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
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
        except asyncio.CancelledError:  # the server does that as it ends, and at no other time
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
            with ExitStack() as place:
                if (body := await self._body(scope, receive, place)) is None:
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

    async def _body(self, scope: Scope, receive: _Incoming, place: ExitStack) -> bytes | None:
        """Return what the client sent, None if it is gone, and take a place among the large ones if it is that."""
        headers = Headers(scope=scope)
        given = headers.get("content-type", "").lower().replace(" ", "").replace('"', "")
        if given not in JSON_TYPES:
            rule = "the content type must be application/json"
            raise RequestRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", rule)
        found, body, large = int(headers.get("content-length", 0)), bytearray(), False
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    if found > self._largest:
                        rule = f"a request may have {self._largest} bytes"
                        raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "REQUEST_TOO_LARGE", rule)
                    if found > LARGE and not large:
                        large = True
                        place.enter_context(self._place())
                    if receive.ended:
                        return bytes(body)
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    found = max(found, len(body))
        except TimeoutError as error:
            rule = f"a request must have come within {PATIENCE} seconds"
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, "REQUEST_TIMEOUT", rule) from error

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count a large request that is received, waits or is handled."""
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
        """Wait until no other large request is handled, not even by a thread that MLflow has given up."""
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
            if unfinished := [each for each in work if not each.done()]:
                unfinished[-1].add_done_callback(lambda _: loop.call_soon_threadsafe(self._turns.release))
            else:
                self._turns.release()


class _Incoming:
    """A client's channel, which knows whether there is more of the body to come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = not message.get("more_body", False)
        return message


async def _turn_away(response: Response, most: int, receive: _Incoming, send: Send) -> None:
    """Answer at once, but close the connection only when the client has sent everything, or so many bytes."""
    headers = [*response.raw_headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    try:
        async with asyncio.timeout(PATIENCE):
            while most > 0 and not receive.ended:
                most -= len((await receive()).get("body", b""))
    except (TimeoutError, asyncio.CancelledError):
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a channel that hands over a body that was read already, and then what the client's does."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


class Workers(ThreadPoolExecutor):
    """Threads that tell whoever asks for work, over `_at_work`, when it is really over: MLflow gives up before."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in a thread, as `ThreadPoolExecutor` does."""
        future = super().submit(fn, *args, **kwargs)
        if (mine := _at_work.get()) is not None:
            mine.append(future)
        return future
