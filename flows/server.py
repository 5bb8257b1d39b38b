"""Prefect's temporary server for the length of one command, in a process that ends with the command however that ends.

A server that Prefect starts by itself shares the terminal with the command: Ctrl-C stops it first, and the flow run can no
longer say how it ended. Killed outright, the command would leave the server behind. This one is kept by a process of its own
session, which waits for its standard input to close: that happens whatever becomes of the command.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Callable

ERROR = "error: "


def start() -> Callable[[], str]:
    """Start Prefect's temporary server, unless one is configured, and return a function that waits for its API URL.

    Call it before Prefect is imported: what Prefect still has to tell its server when the process exits is then told first.
    The function raises a `RuntimeError` if the server does not start.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        return lambda: configured
    keeper = subprocess.Popen(
        [sys.executable, "-m", "flows.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    atexit.register(keeper.stdin.close)
    first_line = keeper.stdout.readline

    def url() -> str:
        line = first_line().strip()
        if not line or line.startswith(ERROR):
            raise RuntimeError(f"Prefect's temporary server did not start: {line.removeprefix(ERROR) or 'no answer'}")
        return line

    return url


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
