"""Up and down: the services from nothing to healthy, and back."""

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
    """Start what does not run, and wait until all is healthy. What runs already is left as it is.

    Raises
    ------
    ServicesError
        If PostgreSQL is missing, a port is taken, or a service does not become healthy. What was started stays up then, so
        that its log can be looked at; calling again goes on.
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
    """Return the file that is there while databases and artifacts may be of different times."""
    return settings.folder / ".restoring"


def require_whole(settings: ServiceSettings) -> None:
    """Refuse to go on while databases and artifacts may be of different times.

    Raises
    ------
    ServicesError
        If a restore was interrupted.
    """
    if (mark := half_restored(settings)).exists():
        raise ServicesError(f"a restore was interrupted: do it again, from {mark.read_text().strip()}")


def database(settings: ServiceSettings, say: Say) -> None:
    """Start PostgreSQL alone, with the role and the databases in it."""
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
    """Stop what was started, the worker first; return what was stopped.

    A flow run that is under way is told to end, and is marked as crashed in Prefect and stopped in MLflow.
    """
    with changing(settings):
        running = supervision.states(settings)
        stopped = [name for name, state in (running or {}).items() if state not in supervision.STOPPED]
        stop_all(settings)
        left = supervision.left_behind(settings)  # of a supervisord that was killed
        end(left)
        return stopped + [f"process {each.pid}, left behind" for each in left]


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
    """Return the processes that are none of supervisord's: those a worker started, which outlive it."""
    kept = supervision.pids(settings)
    below = {
        child.pid for pid in kept if psutil.pid_exists(pid) for child in psutil.Process(pid).children(recursive=True)
    }
    return [each for each in supervision.left_behind(settings) if each.pid not in kept | below]


def end(processes: list[psutil.Process]) -> None:
    """Tell processes to end and wait; kill those that do not. PostgreSQL ends at once when told by SIGINT."""
    for each in processes:
        try:
            each.send_signal(signal.SIGINT if each.name() == "postgres" else signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(alive, timeout=PATIENCE)


def report(settings: ServiceSettings) -> dict[str, tuple[str, str]]:
    """Return the address of each service and what is the matter with it, or ``healthy``."""
    addresses = {
        "postgres": f"{LOOPBACK}:{settings.postgres_port}",
        "mlflow": settings.mlflow_url,
        "prefect": settings.prefect_url,
        "worker": f"of work pool {supervision.WORK_POOL}",
    }
    supervised = supervision.states(settings) is not None
    found = {name: health.trouble(settings, name) for name in addresses}
    told = {
        name: "healthy" if trouble is None else trouble if supervised else "not running"
        for name, trouble in found.items()
    }
    return {name: (address, told[name]) for name, address in addresses.items()}


@contextmanager
def changing(settings: ServiceSettings) -> Iterator[None]:
    """Let one command at a time change the services; another waits."""
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
        if (who := supervision.listener(port)) is not None:
            advice = f"set DAE_{name.upper()}_PORT in .env to another, or stop what listens there"
            left = supervision.left_behind(settings)
            if left:
                down = command_lines.make_command("services-down")
                advice = f"it belongs to these services, whose supervisord was killed: {down} stops it"
            raise ServicesError(f"port {port} of {name} must be free, but {who} listens on it; {advice}")


def _await(settings: ServiceSettings, name: str, say: Say) -> None:
    if health.trouble(settings, name) is not None:
        say(f"waiting for {name} ...")
        health.wait(settings, name)
