"""Service: images a second and the wait for an answer with 1, 8 and 32 clients at once.

`dae serve` runs the default network in a process of its own, and clients, each with a connection that stays open, ask for one
MNIST image a request over the loopback device, the next one as soon as the answer is there. An array is JSON numbers both ways,
a file is a PNG in base64. Requests are made beforehand and answers are not decoded, but clients and server share the cores. The
wait is the time from a request to the last byte of its answer: half of them, 95 and 99 in 100 are no longer than the figures.
One client is held against the same model called in one process, without HTTP or JSON; more clients against one.
"""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from benchmarks import flows
from benchmarks.inference import noisy_images
from benchmarks.measure import Row
from dae.cli import options
from dae.config.schema import ModelConfig
from dae.networks import build
from dae.tracking import pyfunc

CLIENTS = (1, 8, 32)
REPEATS, REQUESTS, IMAGES, WARM_UP = 3, 480, 64, 32
FIGURES = ("images/s", "median wait", "95th percentile of the wait", "99th percentile of the wait")
ALONE = "the same model in one process"
STORE = r"""
from dae import runtime
runtime.configure(terminal=True)
import numpy as np
from dae.networks import build
from dae.tracking import log_model, client as client_module
from dae.config.schema import ModelConfig, PipelineConfig
with open_run(PipelineConfig(), "none") as run_id:
    model = build.build_network(ModelConfig(), (28, 28, 1))
    log_model.log_model(run_id, model, np.zeros((2, 28, 28, 1), np.float32), "dae")
print(run_id)
"""


@dataclass(frozen=True)
class Form:
    """Images as one form of request has them: as they are given to the model in one process, and as bodies."""

    values: Sequence[Any]
    bodies: Sequence[bytes]


def forms() -> dict[str, Form]:
    """Return noisy MNIST images as arrays and as files."""
    noisy = noisy_images()[:IMAGES, ..., 0]
    pixels = np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    texts = [base64.b64encode(imagecodecs.png_encode(image)).decode() for image in pixels]
    return {
        "array": Form(list(noisy), [json.dumps({"inputs": image.tolist()}).encode() for image in noisy]),
        "file": Form(texts, [json.dumps({"inputs": [text]}).encode() for text in texts]),
    }


@contextmanager
def served(home: Path) -> Iterator[int]:
    """Serve the default network, untrained, with everything stored below `home`; yield the port."""
    environment = flows.environment(home)
    stored = subprocess.run(
        [sys.executable, "-c", STORE], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    with options.claim(0) as free:
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "dae.cli", "serve", "--model", stored.stdout.split()[-1], "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            if not (process.stdout and process.stdout.readline()):
                raise SystemExit("the server did not start")
            yield port
        finally:
            process.terminate()


def asked(port: int, bodies: Sequence[bytes], clients: int, requests: int = REQUESTS) -> tuple[float, ...]:
    """Return the figures of so many clients that share out the requests.

    Raises
    ------
    SystemExit
        If an answer is not a good one.
    """

    def client(number: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        waits = []
        for place in range(number, requests, clients):
            started = time.perf_counter()
            connection.request(
                "POST", "/invocations", bodies[place % len(bodies)], {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            said = answer.read()
            waits.append(time.perf_counter() - started)
            if answer.status != 200:
                raise SystemExit(f"{answer.status}: {said[:300]!r}")
        connection.close()
        return waits

    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        waits = [wait for each in pool.map(client, range(clients)) for wait in each]
        return _figures(waits, time.perf_counter() - started)


def called(predict: Callable[[Any], object], values: Sequence[Any], requests: int = REQUESTS) -> tuple[float, ...]:
    """Return the same figures of calls in this process, one after the other."""
    waits = []
    for place in range(requests):
        started = time.perf_counter()
        predict(values[place % len(values)])
        waits.append(time.perf_counter() - started)
    return _figures(waits, sum(waits))


def _figures(waits: Sequence[float], whole: float) -> tuple[float, ...]:
    return len(waits) / whole, *(1000 * float(np.percentile(waits, part)) for part in (50, 95, 99))


def measure() -> list[Row]:
    """Ask in both forms, with every number of clients in turn, several times over."""
    alone = pyfunc.Service(build.build_network(ModelConfig(), (28, 28, 1)))
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as port:
        asking = forms()
        for form in asking.values():
            called(alone.predict, form.values, WARM_UP)
            asked(port, form.bodies, max(CLIENTS), WARM_UP)
        for _ in range(REPEATS):
            for name, form in asking.items():
                found.setdefault((name, 0), []).append(called(alone.predict, form.values))
                for clients in CLIENTS:
                    found.setdefault((name, clients), []).append(asked(port, form.bodies, clients))
    return [row for name in asking for clients in CLIENTS for row in _rows(name, clients, found)]


def _rows(name: str, clients: int, found: dict[tuple[str, int], list[tuple[float, ...]]]) -> Iterator[Row]:
    reference, than = (0, ALONE) if clients == 1 else (1, "one client")
    many = f"{clients} client{'s' if clients > 1 else ''}"
    ours, theirs = (list(zip(*found[name, number], strict=True)) for number in (clients, reference))
    for place, figure in enumerate(FIGURES):
        wait = place > 0
        what = f"{name}, {many}, {figure}" if wait else f"{name}, {many}"
        unit = "ms" if wait else "images/s"
        yield Row(what, unit, ours[place], theirs[place], than, more_is_better=not wait)
