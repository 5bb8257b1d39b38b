"""``dae serve``: the command, its server asked over HTTP, and what no request may do to it."""

from __future__ import annotations

import asyncio
import base64
import collections
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from dae.cli import app
from dae.config.schema import ModelConfig, PipelineConfig
from dae.networks import build
from dae.serving import errors, middleware
from dae.tracking import log_model
from dae.tracking.client import connect
from dae.tracking.runs import open_run

pytestmark = pytest.mark.slow

LARGEST = 2**20
JSON = {"content-type": "application/json"}
RNG = np.random.default_rng(0)
NOISY = RNG.random((12, 15)).astype(np.float32)
PIXELS = RNG.integers(0, 255, (40, 30), np.uint8)


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def text_of(file: bytes) -> str:
    return base64.b64encode(file).decode()


def inputs(value: Any) -> bytes:
    return json.dumps({"inputs": value}).encode()


@dataclass(frozen=True)
class Server:
    """A running ``dae serve``, the model it serves and the line it printed."""

    address: str
    model: keras.Model
    run_id: str
    line: str
    http: urllib3.PoolManager

    def post(self, body: Any, headers: dict[str, str] = JSON) -> tuple[int, Any]:
        return self.ask("POST", "/invocations", headers, body)

    def ask(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        answer = self.http.request(
            method, self.address + path, body=body, headers=headers, retries=False, timeout=60, redirect=False
        )
        return answer.status, json.loads(answer.data) if answer.data.strip() else None


def registered() -> tuple[keras.Model, str]:
    """Log a network that changes what it is given as the champion, in the store in use."""
    model = build.build_network(ModelConfig(width=4, deep_width=4), (12, 12, 1))
    rng = np.random.default_rng(0)
    model.set_weights([weights + rng.normal(0, 0.1, weights.shape) for weights in model.get_weights()])
    with open_run(PipelineConfig(), "none") as run_id:
        _, uri = log_model.log_model(run_id, model, rng.random((2, 12, 12, 1), np.float32), "dae")
    client = connect()
    client.create_registered_model("dae")
    client.create_model_version("dae", uri, run_id)
    client.set_registered_model_alias("dae", "champion", "1")
    return model, run_id


@contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``dae serve``; yield the process and the line it prints once it answers."""
    whole = [sys.executable, "-m", "dae.cli", "serve", *arguments]
    with subprocess.Popen(whole, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def store(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, keras.Model, str]]:
    """A store with a champion, as the one in use."""
    home = tmp_path_factory.mktemp("service")
    (home / "mlruns").mkdir()
    shutil.copy(migrated, home / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield home, *registered()


@pytest.fixture(scope="module")
def server(store: tuple[Path, keras.Model, str]) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, model, run_id = store
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(store[0]))
        with command("--port", str(port), "--max-request-mb", "1") as (process, line):
            yield Server(f"http://127.0.0.1:{port}", model, run_id, line, urllib3.PoolManager())
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0


def test_it_says_which_version_it_serves_and_where(server: Server) -> None:
    where = f"{server.address}/invocations (stop with Ctrl-C)"
    assert server.line == f"Serving version 1 of dae, made by run {server.run_id}: {where}\n"
    assert server.ask("GET", "/ping", {}, None) == (200, None)


def differences(server: Server) -> tuple[float, float]:
    """Return by how much answers differ, at most, from what the model gives: of an array, and of an image file in levels."""
    status, answer = server.post(inputs(NOISY.tolist()))
    assert status == 200
    expected = server.model.predict_on_batch(NOISY[None, ..., None])[0, ..., 0]
    array = float(np.abs(np.asarray(answer["predictions"]) - expected).max())
    status, answer = server.post(inputs([text_of(file_of(PIXELS))]))
    assert status == 200
    restored = server.model.predict_on_batch((PIXELS / np.float32(255))[None, ..., None])[0, ..., 0]
    with Image.open(io.BytesIO(base64.b64decode(answer["predictions"][0]))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", PIXELS.shape[::-1])
        levels = np.asarray(image, np.float64) - np.rint(np.clip(restored, 0, 1) * 255)
    return array, float(np.abs(levels).max())


def test_it_restores_arrays_and_image_files(server: Server) -> None:
    array, levels = differences(server)
    assert array <= 1e-5
    assert levels <= 1


BAD: dict[str, tuple[Any, dict[str, str], int, str]] = {
    "no JSON": (b'{"inputs": [1, ]}', JSON, 400, "line 1, column 16: Expecting value"),
    "nothing": (b"", JSON, 400, "line 1, column 1: Expecting value"),
    "no UTF-8": (b'{"inputs": "\xff"}', JSON, 400, "this is not UTF-8"),
    "brackets": (b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}", JSON, 400, "this is nested too deeply"),
    "digits": (b'{"inputs": ' + b"9" * 5000 + b"}", JSON, 400, "a number is too long"),
    "a list": (b"[1, 2]", JSON, 400, 'there is no "inputs"'),
    "other keys": (b'{"instances": [[0.5]]}', JSON, 400, 'there is no "inputs"'),
    "a chat": (b'{"messages": []}', JSON, 400, "received an object"),
    "a table": (b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}}', JSON, 400, 'there is no "inputs"'),
    "NaN": (b'{"inputs": [' + b",".join([b"[" + b",".join([b"NaN"] * 8) + b"]"] * 8) + b"]}", JSON, 400, "finite"),
    "a scale": (inputs([[200] * 8] * 8), JSON, 400, "received 200: divide by 255"),
    "no image": (inputs("aGVsbG8="), JSON, 400, "must be a PNG, JPEG or TIFF file"),
    "half an image": (inputs(text_of(file_of(PIXELS)[:600])), JSON, 400, "image 0: is damaged"),
    "too many": (
        inputs(np.zeros((1025, 8, 8), int).tolist()),
        JSON,
        400,
        "1024 images (DAE_MAX_IMAGES), received 1025",
    ),
    "CSV": (b"a,b\n1,2\n", {"content-type": "text/csv"}, 415, "must be application/json"),
    "no type": (inputs([[0.5]]), {}, 415, "must be application/json"),
    "Latin 1": (inputs(1), {"content-type": "application/json; charset=latin-1"}, 415, "must be application/json"),
    "quoted": (inputs(1), {"content-type": 'Application/JSON; Charset="UTF-8"'}, 400, "received a number"),
    "too large": (b" " * (LARGEST + 1), JSON, 413, "may have 1048576 bytes"),
    "much too large": (b" " * 60 * LARGEST, JSON, 413, "may have 1048576 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_a_status_and_a_reason_without_the_request_in_it(server: Server, name: str) -> None:
    body, headers, status, reason = BAD[name]
    found, answer = server.post(body, headers)
    assert (found, answer.keys()) == (status, {"error_code", "message"})
    assert reason in answer["message"]
    assert len(answer["message"]) < 250
    assert "Traceback" not in answer["message"]


def test_a_body_of_unknown_length_is_refused_once_it_is_too_large(server: Server) -> None:
    status, answer = server.post(b" " * 2**18 for _ in range(40))
    assert status == 413
    assert answer["error_code"] == "REQUEST_TOO_LARGE"


def test_a_declared_length_is_enough_to_be_refused(server: Server) -> None:
    port = int(server.address.rpartition(":")[2])
    head = (
        "POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_other_paths_and_methods_are_not_there(server: Server) -> None:
    there = "there is POST /invocations, and GET /ping, /health and /version"
    found = server.ask("GET", "/invocations", {}, None)
    assert found == (405, {"error_code": "METHOD_NOT_ALLOWED", "message": there})
    for path in ("/predict", "/invocations/"):
        found = server.ask("POST", path, JSON, inputs([[0.5]]))
        assert found == (404, {"error_code": "NOT_FOUND", "message": there})
    for path in ("/docs", "/redoc", "/openapi.json", "/"):
        assert server.ask("GET", path, {}, None)[0] == 404
    for path in ("/ping", "/health", "/version"):
        with urllib.request.urlopen(server.address + path, timeout=30) as answer:
            assert answer.status == 200


def test_a_client_that_sends_everything_first_sees_why_it_is_refused(server: Server) -> None:
    request = urllib.request.Request(server.address + "/invocations", b" " * 30 * LARGEST, JSON)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    with refused.value as answer:
        assert (answer.code, json.load(answer)["error_code"]) == (413, "REQUEST_TOO_LARGE")


scalars = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(-(10**30), 10**30), st.text(max_size=30), st.just("aGVsbG8=")
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=40,
)


@st.composite
def wrong_arrays(draw: st.DrawFn) -> Any:
    """Draw an array with one thing wrong: its axes, sides, channels, a value, a type, or a row."""
    side = st.integers(8, 14)
    good = [draw(st.integers(1, 3)), draw(side), draw(side), 1]
    empty = draw(st.integers(0, 3))
    wrong = draw(st.sampled_from(["axes", "side", "channels", "zero", "value", "type", "row", "many"]))
    shape = {
        "axes": [draw(st.integers(1, 30))] if draw(st.booleans()) else [1, *good],
        "side": [good[0], draw(st.integers(1, 7)), good[2], 1],
        "channels": [*good[:3], draw(st.sampled_from([2, 4, 5, 7]))],
        "zero": [0 if place == empty else size for place, size in enumerate(good)],
        "many": [1025, 8, 8, 1],
    }.get(wrong, good)
    tree = np.full(shape, 0.5).tolist()
    if wrong in ("value", "type"):
        values = {
            "value": st.sampled_from([float("nan"), float("inf"), -float("inf"), 33, -255, 1e300, 10**400]),
            "type": st.one_of(st.none(), st.booleans(), st.text(max_size=5), st.just({}), st.just([]), st.just([0.5])),
        }
        tree[0][draw(st.integers(0, 7))][draw(st.integers(0, 7))][0] = draw(values[wrong])
    if wrong == "row":
        tree[-1][draw(st.integers(0, 7))].append([0.5])
    return tree


@st.composite
def wrong_files(draw: st.DrawFn) -> Any:
    """Draw what is no image file, half of one, one that is damaged at its head, or one of a kind that is not taken."""
    shape = draw(st.tuples(st.integers(8, 20), st.integers(8, 20)))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 255, shape, np.uint8)
    file = file_of(pixels)
    wrong = draw(st.sampled_from(["noise", "cut", "head", "small", "alpha", "kind", "characters", "pages"]))
    if wrong == "characters":
        return text_of(file)[: draw(st.integers(1, 50))] + draw(st.sampled_from(["*", "é", "\x00", "=a", "{}"]))
    spoiled = bytearray(file)
    spoiled[draw(st.integers(0, 32))] ^= draw(st.integers(1, 255))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "TIFF", save_all=True, append_images=[Image.fromarray(pixels)])
    made = {
        "noise": draw(st.binary(max_size=200)),
        "cut": file[: draw(st.integers(0, len(file) - 40))],
        "head": bytes(spoiled),
        "small": file_of(pixels[: draw(st.integers(1, 7))]),
        "alpha": file_of(np.zeros((9, 9, draw(st.sampled_from([2, 4]))), np.uint8)),
        "kind": file_of(pixels, draw(st.sampled_from(["GIF", "BMP", "WEBP"]))),
        "pages": stream.getvalue(),
    }[wrong]
    return draw(st.sampled_from([text_of(made), [text_of(made)], [text_of(file), text_of(made)]]))


valid = inputs(NOISY.tolist())
bodies = st.one_of(
    st.binary(max_size=300),
    st.integers(0, len(valid) - 2).map(lambda end: valid[:end]),
    st.builds(lambda tree: json.dumps(tree).encode(), trees),
    trees.map(inputs),
    st.builds(lambda key, tree: json.dumps({key: tree}).encode(), st.text(max_size=10), trees),
    wrong_arrays().map(inputs),
    wrong_files().map(inputs),
    st.integers(5, 20_000).map(lambda deep: b'{"inputs":' + b"[" * deep + b"]" * deep + b"}"),
    st.integers(5, 20_000).map(lambda deep: b'{"inputs":' * deep),
    st.integers(300, 6000).map(lambda digits: b'{"inputs": [[-' + b"7" * digits + b"]]}"),
    st.just(b" " * (LARGEST + 1)),
)
types = st.one_of(st.just("application/json"), st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20))
malformed = st.one_of(
    st.tuples(st.just("POST"), st.just("/invocations"), st.just(JSON), bodies),
    st.tuples(st.just("POST"), st.just("/invocations"), types.map(lambda kind: {"content-type": kind}), bodies),
    st.tuples(
        st.sampled_from(["GET", "PUT", "DELETE"]), st.sampled_from(["/invocations", "/x"]), st.just(JSON), bodies
    ),
)


def test_a_thousand_malformed_requests_are_refused_and_the_server_lives_on(server: Server) -> None:
    statuses: collections.Counter[int] = collections.Counter()

    @settings(max_examples=1000, suppress_health_check=list(HealthCheck))
    @given(malformed)
    def send(request: tuple[str, str, dict[str, str], bytes]) -> None:
        status, answer = server.ask(*request)
        statuses[status] += 1
        assert 400 <= status < 500, (status, answer)
        assert answer.keys() == {"error_code", "message"}

    send()
    assert statuses.total() >= 1000
    assert {400, 413, 415} <= statuses.keys()
    array, levels = differences(server)
    assert (array <= 1e-5, levels <= 1) == (True, True)


def test_ctrl_c_ends_it_well(store: tuple[Path, keras.Model, str], unused_port: int, monkeypatch: Any) -> None:
    monkeypatch.setenv("DAE_HOME", str(store[0]))
    with command("--port", str(unused_port), "--model", "1") as (process, line):
        assert f":{unused_port}/invocations" in line
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


@pytest.mark.usefixtures("mlflow_store")
def test_a_model_that_is_not_there_is_an_error(unused_port: int) -> None:
    result = CliRunner().invoke(app, ["serve", "--port", str(unused_port)])
    assert result.exit_code == 1
    assert "no model models:/dae@champion at sqlite:" in result.stderr


def test_a_port_in_use_is_an_error_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(app, ["serve", "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1
    assert "must be free on 127.0.0.1; choose another with --port (Address already in use)" in result.stderr


def test_what_the_server_itself_fails_at_stays_its_error() -> None:
    answer = errors.rephrase_error(504, b"Request processing time exceeded limit", b"{}")
    assert answer.status_code == 504
    assert json.loads(bytes(answer.body))["message"] == "Request processing time exceeded limit"


@pytest.mark.parametrize("reference", ["model.keras", "/somewhere/model.keras", "./model"])
def test_a_file_is_no_served_model(reference: str, unused_port: int) -> None:
    result = CliRunner().invoke(app, ["serve", "--port", str(unused_port), "--model", reference])
    assert result.exit_code == 1
    assert "a served model must be a logged one, models:/NAME@ALIAS," in result.stderr
    assert f"received {reference}" in result.stderr


Answer = tuple[int, dict[str, str], dict[str, str]]


async def asked(guarded: middleware.Middleware, body: bytes, *, whole: bool = True) -> Answer:
    """Return status, headers and content of what a guard answers to a request, which need not be sent whole."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/invocations",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
    }
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": body, "more_body": not whole}]

    async def receive() -> Any:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    await guarded(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(b"".join(each["body"] for each in sent[1:]))


class Slow:
    """An application that answers once it is told to, and knows how much it was asked at once."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.bodies: list[int] = []

    async def __call__(self, _: Any, receive: Any, send: Any) -> None:
        self.bodies.append(len((await receive())["body"]))
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


SMALL, BIG = b" " * middleware.LARGE, b" " * (middleware.LARGE + 1)


def test_large_requests_take_turns_few_wait_and_small_ones_pass() -> None:
    async def main() -> tuple[list[int], Answer, list[Answer]]:
        slow = Slow()
        guarded = middleware.Middleware(slow, 2 * middleware.LARGE)
        tasks = [asyncio.create_task(asked(guarded, BIG)) for _ in range(middleware.WAITING + 1)]
        await settled()
        turned_away = await asked(guarded, BIG)
        tasks += [asyncio.create_task(asked(guarded, SMALL)) for _ in range(2)]
        await settled()
        at_once = slow.bodies[:]
        slow.go.set()
        answers = await asyncio.gather(*tasks)
        assert (await asked(guarded, BIG))[0] == 200
        return at_once, turned_away, answers

    at_once, (status, headers, content), answers = asyncio.run(main())
    assert at_once == [len(BIG), len(SMALL), len(SMALL)]
    assert (status, content["error_code"]) == (503, "BUSY")
    assert headers["retry-after"].isdecimal()
    assert {answer[0] for answer in answers} == {200}


def test_a_large_request_that_waits_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "PATIENCE", 0.01)

    async def main() -> Answer:
        guarded = middleware.Middleware(Slow(), 2 * middleware.LARGE)
        first = asyncio.create_task(asked(guarded, BIG))
        await settled()
        second = await asked(guarded, BIG)
        first.cancel()
        assert (await first)[0] == 503
        return second

    status, _, content = asyncio.run(main())
    assert (status, content["error_code"]) == (503, "BUSY")


def test_a_request_that_does_not_come_to_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "PATIENCE", 0.01)
    status, _, content = asyncio.run(asked(middleware.Middleware(Slow(), middleware.LARGE), b"{", whole=False))
    assert (status, content["error_code"]) == (408, "REQUEST_TIMEOUT")


def test_the_next_turn_comes_once_the_work_is_over_and_not_when_mlflow_gives_it_up() -> None:
    over = threading.Event()

    async def gives_up(_: Any, receive: Any, send: Any) -> None:
        await receive()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(over.wait, 30), 0.01)
        await send({"type": "http.response.start", "status": 504, "headers": []})
        await send({"type": "http.response.body", "body": b"too long", "more_body": False})

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(middleware.Workers(2))
        guarded = middleware.Middleware(gives_up, 2 * middleware.LARGE)
        assert (await asked(guarded, BIG))[0] == 504
        second = asyncio.create_task(asked(guarded, BIG))
        assert not (await asyncio.wait({second}, timeout=0.1))[0]
        over.set()
        assert (await asyncio.wait_for(second, 30))[0] == 504

    asyncio.run(main())


def test_what_is_in_hand_when_the_server_ends_is_told_so() -> None:
    async def main() -> Answer:
        task = asyncio.create_task(asked(middleware.Middleware(Slow(), middleware.LARGE), b"{}"))
        await settled()
        task.cancel()
        return await task

    status, headers, content = asyncio.run(main())
    assert (status, content["error_code"]) == (503, "SHUTTING_DOWN")
    assert "retry-after" in headers


def test_an_application_that_fails_is_the_servers_error() -> None:
    async def fails(*_: Any) -> None:
        raise RuntimeError("the request and everything")

    status, _, content = asyncio.run(asked(middleware.Middleware(fails, middleware.LARGE), b"{}"))
    assert (status, content["error_code"]) == (500, "INTERNAL_ERROR")
    assert "everything" not in content["message"]


def test_what_is_wrong_with_a_large_body_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_fault", lambda _: pytest.fail("it was parsed again"))

    async def refuses(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})

    status, _, content = asyncio.run(asked(middleware.Middleware(refuses, 2 * middleware.LARGE), BIG))
    assert (status, content) == (400, {"error_code": "BAD_REQUEST", "message": errors.BODY})


STUCK = """
import socket, sys, threading, types
from dae.serving import middleware, server

class Model:
    metadata = types.SimpleNamespace(get_input_schema=lambda: None)
    def predict(self, data, params=None):
        print("stuck", flush=True)
        threading.Event().wait()

middleware.PATIENCE = server.PATIENCE = 1
listening = socket.create_server(("127.0.0.1", 0))
server.run_server(Model(), listening, 2**20, lambda: print(listening.getsockname()[1], flush=True))
"""


def test_sigterm_ends_it_even_if_a_worker_is_stuck() -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            address = f"http://127.0.0.1:{int(process.stdout.readline())}/invocations"
            answers: list[tuple[int, str]] = []

            def ask() -> None:
                answer = urllib3.request("POST", address, body=inputs([[0.5]]), headers=JSON, retries=False)
                answers.append((answer.status, answer.json()["error_code"]))

            client = threading.Thread(target=ask)
            client.start()
            assert process.stdout.readline() == b"stuck\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
            client.join()
            assert answers == [(503, "SHUTTING_DOWN")]
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
        finally:
            process.kill()
