"""Starting the services until all are healthy, and stopping them."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from dae import command_lines
from dae.services import environment, health, postgres, supervision
from dae.services.postgres import ServicesError
from dae.services.settings import LOOPBACK, ServiceSettings, write_private

PATIENCE = 60
Say = Callable[[str], None]


def up(settings: ServiceSettings, say: Say) -> None:
    """Start the services that do not run, and wait until all are healthy. Running ones are not touched.

    Raises
    ------
    ServicesError
        If PostgreSQL is missing, a port is taken, or a service does not become healthy. Started services keep running then,
        so that their logs can be read; the next call continues.
    """
    with changing(settings):
        require_whole(settings)
        database(settings, say)
        for name in ("mlflow", "prefect"):
            supervision.start(settings, name)
        for name in ("mlflow", "prefect"):
            _await(settings, name, say)
        supervision.start(settings, "worker")
        _await(settings, "worker", say)


def half_restored(settings: ServiceSettings) -> Path:
    """Return the file that exists while databases and artifacts may be of different times."""
    return settings.folder / ".restoring"


def require_whole(settings: ServiceSettings) -> None:
    """Refuse to continue while databases and artifacts may be of different times.

    Raises
    ------
    ServicesError
        If a restore was interrupted.
    """
    if (mark := half_restored(settings)).exists():
        raise ServicesError(f"a restore was interrupted: do it again, from {mark.read_text().strip()}")


def database(settings: ServiceSettings, say: Say) -> None:
    """Start only PostgreSQL, and create its role and databases."""
    postgres.binary(settings, "postgres")
    _prepare_folder(settings)
    if supervision.states(settings) is None:
        _require_free_ports(settings)
    if not (postgres.cluster(settings) / "PG_VERSION").exists():
        say(f"making a PostgreSQL cluster in {postgres.cluster(settings)} ...")
        postgres.initialise(settings)
    supervision.launch(settings)
    supervision.start(settings, "postgres")
    _await(settings, "postgres", say)
    postgres.prepare(settings)


def down(settings: ServiceSettings) -> list[str]:
    """Stop the running services, the worker first, and return what was stopped.

    A flow run in progress is terminated. It is marked as crashed in Prefect and as killed in MLflow.
    """
    with changing(settings):
        running = supervision.states(settings)
        stopped = [name for name, state in (running or {}).items() if state not in supervision.STOPPED]
        stop_all(settings)
        orphans = supervision.left_behind(settings)  # of a supervisord that was killed
        end(orphans)
        return stopped + [f"process {process.pid}, left behind" for process in orphans]


def stop_all(settings: ServiceSettings) -> None:
    """Stop supervisord's programs and the flow runs of the worker, then supervisord, if it runs."""
    if supervision.states(settings) is None:
        return
    supervision.stop(settings, "worker")
    end(_flow_runs(settings))
    for name in ("prefect", "mlflow", "postgres"):
        supervision.stop(settings, name)
    supervision.shut_down(settings)


def _flow_runs(settings: ServiceSettings) -> list[psutil.Process]:
    """Return the processes that a worker started. They outlive it, and supervisord does not know them."""
    supervised = supervision.pids(settings)
    below = {
        child.pid
        for pid in supervised
        if psutil.pid_exists(pid)
        for child in psutil.Process(pid).children(recursive=True)
    }
    return [process for process in supervision.left_behind(settings) if process.pid not in supervised | below]


def end(processes: list[psutil.Process]) -> None:
    """Terminate processes and wait; kill those that do not end. SIGINT makes PostgreSQL stop at once."""
    for process in processes:
        try:
            process.send_signal(signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=PATIENCE)


def report(settings: ServiceSettings) -> dict[str, tuple[str, str]]:
    """Return the address of each service, and its problem or ``healthy``."""
    addresses = {
        "postgres": f"{LOOPBACK}:{settings.postgres_port}",
        "mlflow": settings.mlflow_url,
        "prefect": settings.prefect_url,
        "worker": f"of work pool {supervision.WORK_POOL}",
    }
    supervised = supervision.states(settings) is not None
    troubles = {name: health.trouble(settings, name) for name in addresses}
    states = {
        name: "healthy" if trouble is None else trouble if supervised else "not running"
        for name, trouble in troubles.items()
    }
    return {name: (address, states[name]) for name, address in addresses.items()}


@contextmanager
def changing(settings: ServiceSettings) -> Iterator[None]:
    """Let only one command at a time change the services; others wait."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    with (settings.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare_folder(settings: ServiceSettings) -> None:
    for name in ("logs", "artifacts", "prefect"):
        (settings.folder / name).mkdir(mode=0o700, exist_ok=True)
    write_private(settings.folder / "basic_auth.ini", environment.basic_auth(settings))
    write_private(settings.folder / "client.env", environment.shell(settings))


def _require_free_ports(settings: ServiceSettings) -> None:
    for name, port in settings.ports().items():
        if (process := supervision.listener(port)) is not None:
            advice = f"set DAE_{name.upper()}_PORT in .env to another, or stop what listens there"
            if supervision.left_behind(settings):
                down = command_lines.make_command("services-down")
                advice = f"it belongs to these services, whose supervisord was killed: {down} stops it"
            raise ServicesError(f"port {port} of {name} must be free, but {process} listens on it; {advice}")


def _await(settings: ServiceSettings, name: str, say: Say) -> None:
    if health.trouble(settings, name) is not None:
        say(f"waiting for {name} ...")
        health.wait(settings, name)
