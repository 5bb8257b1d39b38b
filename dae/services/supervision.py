"""supervisord: it keeps the services, starts again what ends, and stops what it started and nothing else."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from dae.services import environment, postgres
from dae.services.postgres import ServicesError
from dae.services.settings import ServiceSettings

WORK_POOL = "dae"
STOPPED = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")
PYTHON = f"{shlex.quote(sys.executable)} -m"


def configuration(settings: ServiceSettings) -> str:
    """Return supervisord's configuration. It holds no secret: the programs have theirs from the environment."""
    folder, host = settings.folder, settings.services_host
    run_as = f"user={name}\n" if (name := postgres.user()) else ""
    server = f"--host {host} --port"
    return "".join(
        (
            f"[supervisord]\nlogfile={folder}/logs/supervisord.log\npidfile={folder}/supervisord.pid\n",
            f"childlogdir={folder}/logs\ndirectory={folder}\numask=077\n",
            f"[unix_http_server]\nfile={settings.socket}\nchmod=0700\n",
            "[rpcinterface:supervisor]\n",
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
            f"[supervisorctl]\nserverurl=unix://{settings.socket}\n",
            _program(settings, "postgres", _bare(settings) + postgres.command(settings), f"stopsignal=INT\n{run_as}"),
            _program(
                settings,
                "mlflow",
                f"{PYTHON} mlflow server --app-name basic-auth --serve-artifacts --workers 1 {server} {settings.mlflow_port}",
            ),
            _program(settings, "prefect", f"{PYTHON} prefect server start {server} {settings.prefect_port}"),
            # Told to end, it would kill its runs before they can say so. Killed, it leaves them to be told by themselves.
            _program(settings, "worker", f"{PYTHON} dae.cli worker --pool {WORK_POOL}", "stopsignal=KILL\n"),
        )
    )


def _bare(settings: ServiceSettings) -> str:
    """Return what keeps the secrets of the others from PostgreSQL where it runs as a user of its own."""
    if postgres.user() is None:
        return ""
    return f"/usr/bin/env -i LANG=C.UTF-8 {shlex.quote(f'{environment.MARK}={settings.folder}')} "


def _program(settings: ServiceSettings, name: str, command: str, more: str = "") -> str:
    """Return the section of one program: asked for by name, started again whenever it ends."""
    log = f"stdout_logfile={settings.folder}/logs/{name}.log\nredirect_stderr=true\n"
    ends = "autostart=false\nautorestart=true\nstartsecs=3\nstopwaitsecs=30\nstopasgroup=false\nkillasgroup=true\n"
    return f"[program:{name}]\ncommand={command.replace('%', '%%')}\n{ends}{log}{more}"


@contextmanager
def interface(settings: ServiceSettings) -> Iterator[Any]:
    """Yield supervisord's interface."""
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(None, None, serverurl=f"unix://{settings.socket}")
    with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
        yield proxy.supervisor


def states(settings: ServiceSettings) -> dict[str, str] | None:
    """Return the state of each program, None where no supervisord runs."""
    try:
        with interface(settings) as asked:
            return {info["name"]: info["statename"] for info in asked.getAllProcessInfo()}
    except (OSError, xmlrpc.client.Error):
        return None


def pid(settings: ServiceSettings) -> int:
    """Return the process of supervisord itself."""
    with interface(settings) as asked:
        return int(asked.getPID())


def pids(settings: ServiceSettings) -> set[int]:
    """Return the processes of supervisord's programs, and its own."""
    with interface(settings) as asked:
        return {int(asked.getPID()), *(int(info["pid"]) for info in asked.getAllProcessInfo())} - {0}


def launch(settings: ServiceSettings) -> None:
    """Start supervisord, unless it runs; its programs wait to be asked for.

    Raises
    ------
    ServicesError
        If it does not start.
    """
    if states(settings) is not None:
        return
    file = settings.folder / "supervisord.conf"
    file.write_text(configuration(settings), encoding="utf-8")
    settings.socket.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(file)],
        env=environment.of_services(settings),
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while done.returncode == 0 and states(settings) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if states(settings) is None:
        raise ServicesError(f"supervisord did not start: {(done.stderr or done.stdout).strip()[-1000:]}")


def start(settings: ServiceSettings, name: str) -> None:
    """Ask for a program, unless it runs."""
    if (states(settings) or {}).get(name) in STOPPED:
        with interface(settings) as asked:
            asked.startProcess(name, False)


def stop(settings: ServiceSettings, name: str) -> None:
    """Stop a program and wait until it has ended, if it runs."""
    if (states(settings) or {}).get(name, "STOPPED") not in STOPPED:
        with interface(settings) as asked:
            asked.stopProcess(name)


def shut_down(settings: ServiceSettings) -> None:
    """Stop supervisord, which has no programs left, and wait until it is gone."""
    this = psutil.Process(pid(settings))
    with interface(settings) as asked:
        asked.shutdown()
    psutil.wait_procs([this], timeout=30)


def left_behind(settings: ServiceSettings) -> list[psutil.Process]:
    """Return the processes of these services that are there, whoever started them: each has the folder in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(environment.MARK) == str(settings.folder):
                found.append(process)
        except (psutil.Error, OSError):  # another user's, or gone
            continue
    return found


def listener(port: int) -> str | None:
    """Return who listens on a port, in words; None if nobody does."""
    for each in psutil.net_connections(kind="tcp"):
        if each.laddr and each.laddr.port == port and each.status == psutil.CONN_LISTEN:
            if each.pid is None:
                return "a process of another user"
            return f"process {each.pid} ({psutil.Process(each.pid).name()})"
    return None


def worker_name(number: int) -> str:
    """Return the name under which the process of a worker is known to the Prefect server."""
    return f"{socket.gethostname()} {number}"


def worker_names() -> set[str]:
    """Return the names of the workers that run on this machine."""
    return {worker_name(each.pid) for each in psutil.process_iter() if _is_worker(each)}


def _is_worker(process: psutil.Process) -> bool:
    try:
        return {"prefect", "worker", "start"} <= set(process.cmdline())
    except (psutil.Error, OSError):  # another user's, or gone
        return False


def log_tail(settings: ServiceSettings, name: str, count: int = 15) -> str:
    """Return the last lines a program wrote."""
    try:
        lines = (settings.folder / "logs" / f"{name}.log").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-count:])
