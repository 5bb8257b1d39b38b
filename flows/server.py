"""Prefect's temporary server for the length of one command, in a process that ends with the command however that ends.

A server that Prefect starts by itself shares the terminal with the command: Ctrl-C stops it first, and the flow run can no
longer say how it ended. Killed outright, the command would leave the server behind. This one is kept by a process of its own
session, which waits for its standard input to close: that happens whatever becomes of the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ERROR = "error: "


@contextmanager
def temporary_server() -> Iterator[Callable[[], str]]:
    """Start Prefect's temporary server, unless one is configured, and yield a function that waits for its API URL.

    The function raises a `RuntimeError` if the server does not start.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        yield lambda: configured
        return
    command = [sys.executable, "-m", "flows.server"]
    keeper = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )

    def url() -> str:
        line = (keeper.stdout.readline() if keeper.stdout else "").strip()
        if not line or line.startswith(ERROR):
            raise RuntimeError(f"Prefect's temporary server did not start: {line.removeprefix(ERROR) or 'no answer'}")
        return line

    with keeper:  # closes its standard input, and waits for it
        yield url


def keep() -> None:
    """Start a server unless a profile names one, print its API URL, and stop it when standard input closes."""
    try:
        from prefect.server.api.server import SubprocessASGIServer
        from prefect.settings import get_current_settings

        if configured := get_current_settings().api.url:
            print(configured, flush=True)
            return
        server = SubprocessASGIServer()
        server.start()
    except Exception as error:  # noqa: BLE001  (told to the command, which reports it)
        print(f"{ERROR}{type(error).__name__}: {error}".replace("\n", " "), flush=True)
        return
    print(server.api_url, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    keep()
