"""``dae worker``."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def worker(
    pool: Annotated[str, typer.Option(help="The work pool whose runs it takes.")] = "dae",
) -> None:
    """Take the runs of a work pool, each in a process of its own, under the settings every run has."""
    from dae.services import environment, supervision

    for name in environment.SERVERS_OWN:
        os.environ.pop(name, None)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = (
        "INFO"  # it has no report of its own: its log is what it says
    )
    # The server goes on for a while to call a worker online that was killed: by its name one can tell which it is.
    name = supervision.worker_name(os.getpid())
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", name]
    os.execv(sys.executable, command)  # signals are then Prefect's own to handle
