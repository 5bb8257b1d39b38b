"""What the units call: a service with the command line and the environment that ``dae services`` gives it.

``unit.py start NAME`` prepares what the service needs and becomes it, ``unit.py wait NAME`` returns once it is healthy, and
``unit.py end NAME`` ends what it left behind.
"""

from __future__ import annotations

import configparser
import os
import shlex
import sys
import time

import psutil

from dae.config.schema import ConfigError
from dae.services import environment, health, lifecycle, postgres, settings, supervision
from dae.services.postgres import ServicesError
from dae.services.settings import ServiceSettings

START = "INVOCATION_ID"


def command(found: ServiceSettings, name: str) -> list[str]:
    """Return the command line of a service, as supervisord would run it."""
    parser = configparser.RawConfigParser()
    parser.read_string(supervision.configuration(found))
    return shlex.split(parser[f"program:{name}"]["command"].replace("%%", "%"))


def start(found: ServiceSettings, name: str) -> None:
    """Become a service, without the mark by which ``dae services down`` knows its processes: systemd stops these."""
    for folder in (found.folder, found.folder / "artifacts", found.folder / "prefect"):
        folder.mkdir(mode=0o700, exist_ok=True)
    if name != "postgres":  # which a restore needs
        lifecycle.require_whole(found)
    if name == "postgres":
        postgres.initialise(found)
        settings.write_private(found.folder / "client.env", environment.shell(found))
    if name == "mlflow":
        settings.write_private(found.folder / "basic_auth.ini", environment.basic_auth(found))
    variables = environment.of_services(found)
    del variables[environment.MARK]
    # Prefect would write its pages beside its code otherwise, where only the owner of .venv may.
    variables["PREFECT_SERVER_UI_STATIC_DIRECTORY"] = str(found.folder / "prefect" / "ui")
    line = command(found, name)
    os.execve(line[0], line, variables)


def wait(found: ServiceSettings, name: str) -> None:
    """Wait until a service is healthy, unless the unit's process ends; PostgreSQL is once it has the role and the databases."""
    process = int(os.environ.get("MAINPID", os.getpid()))
    deadline = time.monotonic() + health.PATIENCE
    while (trouble := health.trouble(found, name)) is not None:
        if time.monotonic() > deadline or not psutil.pid_exists(process):
            raise ServicesError(f"{name} is not healthy: {trouble}")
        time.sleep(health.POLL)
    if name == "postgres":
        postgres.prepare(found)


def end(found: ServiceSettings, name: str) -> None:
    """Tell the other processes of the unit to end, and wait until they have."""
    lifecycle.end([each for each in psutil.process_iter() if each.pid != os.getpid() and _start_of(each) == _own()])


def _own() -> str:
    """Return the number that systemd gave this start of the unit; all its processes have it in their environment."""
    return os.environ[START]


def _start_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(START)
    except (psutil.Error, OSError):  # another user's, or gone
        return None


if __name__ == "__main__":
    asked, service = sys.argv[1:]
    try:
        {"start": start, "wait": wait, "end": end}[asked](settings.load(), service)
    except (ConfigError, ServicesError) as error:
        sys.exit(f"error: {error}")
