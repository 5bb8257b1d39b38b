"""``dae worker``."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def worker(
    pool: Annotated[str, typer.Option(metavar="NAME", help="The work pool to take runs from.")] = "dae",
) -> None:
    """Start a worker that takes the runs of a work pool and gives each run a process of its own."""
    from dae.services import environment, supervision

    for name in environment.SERVERS_OWN:
        os.environ.pop(name, None)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO"  # the log is the only output of a worker
    # The server shows a killed worker as online for a while. The process id in the name tells old and new workers apart.
    name = supervision.worker_name(os.getpid())
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", name]
    os.execv(sys.executable, command)  # Prefect then handles the signals itself
