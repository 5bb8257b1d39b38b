"""Error answers of the service: always one JSON object with a code and a short message."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

PATH = "/invocations"
BODY = 'the body must be JSON, an object {"inputs": ...}'
ROUTES = f"there is POST {PATH}, and GET /ping, /health and /version"
logger = logging.getLogger(__name__)


def filter_errors(body: bytes | None, scope: Scope, receive: Receive, send: Send) -> Send:
    """Return a channel that passes successful answers on, and puts errors into the service's own form."""
    parts: list[bytes] = []
    start: Message = {"status": 200}

    async def filtered(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
        if start["status"] < 400:
            await send(message)
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                response = rephrase_error(start["status"], b"".join(parts), body)
                response.raw_headers += [header for header in start["headers"] if header[0] == b"allow"]
                await response(scope, receive, send)

    return filtered


def rephrase_error(status: int, content: bytes, body: bytes | None) -> Response:
    """Return an error in the service's own form. If the request's body is passed, the message says what is wrong with it."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = {}
    if answer.keys() == {"error_code", "message"}:  # as `dae.tracking.pyfunc` writes it
        return JSONResponse(answer, status)
    if "stack_trace" in answer:  # an error of the server, not of the model
        logger.error("a request could not be handled:\n%s", answer["stack_trace"])
    if status == 400:
        return make_error(400, "BAD_REQUEST", BODY if body is None else f"{BODY}; {_fault(body)}")
    if status in (404, 405):
        return make_error(status, HTTPStatus(status).name, ROUTES)
    return make_error(status, "INTERNAL_ERROR", content.decode("utf-8", "replace").partition("\n")[0][:200])


def _fault(body: bytes) -> str:
    """Return what is wrong with a body that MLflow's server could not read."""
    try:
        tree = json.loads(body)
    except json.JSONDecodeError as error:
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    except UnicodeDecodeError:
        return "this is not UTF-8"
    except RecursionError:
        return "this is nested too deeply"
    except ValueError:
        return "a number is too long"
    return "this could not be handled" if isinstance(tree, dict) and "inputs" in tree else 'there is no "inputs"'


def make_error(status: int, code: str, message: str) -> Response:
    """Return an error; a temporary one has a header that says when to try again."""
    headers = {"retry-after": "10"} if status == 503 else None
    return JSONResponse({"error_code": code, "message": message}, status, headers)
