"""supervisord: it starts the services, restarts those that end, and stops only what it started."""

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
    """Return supervisord's configuration. It has no secrets: the programs read them from the environment."""
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
            # On SIGTERM a worker kills its runs before they can report. After SIGKILL they run on and are stopped later.
            _program(settings, "worker", f"{PYTHON} dae.cli worker --pool {WORK_POOL}", "stopsignal=KILL\n"),
        )
    )


def _bare(settings: ServiceSettings) -> str:
    """Return a command prefix that hides the other services' secrets from PostgreSQL if it runs as another user."""
    if postgres.user() is None:
        return ""
    return f"/usr/bin/env -i LANG=C.UTF-8 {shlex.quote(f'{environment.MARK}={settings.folder}')} "


def _program(settings: ServiceSettings, name: str, command: str, more: str = "") -> str:
    """Return the section of one program, which is started by name and restarted whenever it ends."""
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
    """Return the state of each program; None if supervisord does not run."""
    try:
        with interface(settings) as supervisor:
            return {info["name"]: info["statename"] for info in supervisor.getAllProcessInfo()}
    except (OSError, xmlrpc.client.Error):
        return None


def pid(settings: ServiceSettings) -> int:
    """Return the process id of supervisord."""
    with interface(settings) as supervisor:
        return int(supervisor.getPID())


def pids(settings: ServiceSettings) -> set[int]:
    """Return the process ids of supervisord and of its programs."""
    with interface(settings) as supervisor:
        return {int(supervisor.getPID()), *(int(info["pid"]) for info in supervisor.getAllProcessInfo())} - {0}


def launch(settings: ServiceSettings) -> None:
    """Start supervisord unless it runs; its programs are not started yet.

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
    completed = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(file)],
        env=environment.of_services(settings),
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while completed.returncode == 0 and states(settings) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if states(settings) is None:
        raise ServicesError(f"supervisord did not start: {(completed.stderr or completed.stdout).strip()[-1000:]}")


def start(settings: ServiceSettings, name: str) -> None:
    """Start a program unless it runs."""
    if (states(settings) or {}).get(name) in STOPPED:
        with interface(settings) as supervisor:
            supervisor.startProcess(name, False)


def stop(settings: ServiceSettings, name: str) -> None:
    """Stop a program and wait until it has ended, if it runs."""
    if (states(settings) or {}).get(name, "STOPPED") not in STOPPED:
        with interface(settings) as supervisor:
            supervisor.stopProcess(name)


def shut_down(settings: ServiceSettings) -> None:
    """Stop supervisord, whose programs have ended, and wait until it has ended."""
    process = psutil.Process(pid(settings))
    with interface(settings) as supervisor:
        supervisor.shutdown()
    psutil.wait_procs([process], timeout=30)


def left_behind(settings: ServiceSettings) -> list[psutil.Process]:
    """Return the running processes of these services. Each has their folder in its environment."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(environment.MARK) == str(settings.folder):
                processes.append(process)
        except (psutil.Error, OSError):  # it belongs to another user, or has ended
            continue
    return processes


def listener(port: int) -> str | None:
    """Return a description of the process that listens on a port; None if there is none."""
    for connection in psutil.net_connections(kind="tcp"):
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            if connection.pid is None:
                return "a process of another user"
            return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return None


def worker_name(number: int) -> str:
    """Return the name under which the Prefect server knows the worker of a process."""
    return f"{socket.gethostname()} {number}"


def worker_names() -> set[str]:
    """Return the names of the workers that run on this machine."""
    return {worker_name(process.pid) for process in psutil.process_iter() if _is_worker(process)}


def _is_worker(process: psutil.Process) -> bool:
    try:
        return {"prefect", "worker", "start"} <= set(process.cmdline())
    except (psutil.Error, OSError):  # it belongs to another user, or has ended
        return False


def log_tail(settings: ServiceSettings, name: str, count: int = 15) -> str:
    """Return the last lines of a program's log."""
    try:
        lines = (settings.folder / "logs" / f"{name}.log").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-count:])
