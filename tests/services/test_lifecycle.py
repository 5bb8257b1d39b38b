"""Up, down and status where nothing runs, where a port is taken, where PostgreSQL does not start, and after a kill."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Unfinished
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from typer.testing import CliRunner

from dae.cli import app
from dae.services import environment, health, lifecycle, postgres, settings, supervision
from dae.services.settings import ServiceSettings

NO_WORKER = "no worker of this machine is online in the pool"


def dae(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["services", *arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project's folder, of a path short enough for a socket below it, and no variable for the services."""
    for name in [name for name in os.environ if name.startswith("DAE_")]:
        monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="dae-", dir="/tmp") as folder:
        monkeypatch.setenv("DAE_HOME", folder)
        yield Path(folder)


@pytest.fixture(autouse=True)
def own_ports(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Ports that nothing listens on, and PostgreSQL not installed."""
    probes = {name: socket.socket() for name in ("postgres", "mlflow", "prefect")}
    for probe in probes.values():
        probe.bind(("127.0.0.1", 0))
    ports = {name: int(probe.getsockname()[1]) for name, probe in probes.items()}
    for name, probe in probes.items():
        probe.close()
        monkeypatch.setenv(f"DAE_{name.upper()}_PORT", str(ports[name]))
    monkeypatch.setattr(postgres, "DEBIAN", home)
    return ports


@pytest.fixture
def found() -> ServiceSettings:
    return settings.load_or_make()


def install(home: Path, script: str) -> None:
    """Install a program as PostgreSQL's server, where its user can get at it."""
    program = home / "15" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    for each in (program, *program.parents):
        if each.is_relative_to(home):
            each.chmod(0o755)


# Nothing runs


def test_down_and_status_of_a_project_that_never_had_services(home: Path) -> None:
    assert dae("down") == (0, "No services were ever started here.\n", "")
    code, out, err = dae("status")
    assert (code, out) == (2, "")
    assert "make services writes it" in err
    assert not list(home.iterdir())


def test_down_needs_no_passwords(home: Path) -> None:
    (home / ".services").mkdir()
    assert dae("down") == (0, "No services are running.\n", "")


@pytest.mark.parametrize("command", ["up", "upgrade"])
def test_half_a_restore_is_finished_first(found: ServiceSettings, command: str) -> None:
    found.folder.mkdir()
    lifecycle.half_restored(found).write_text("/backups/1\n")
    code, _, err = dae(command)
    assert (code, "a restore was interrupted: do it again, from /backups/1" in " ".join(err.split())) == (1, True)


def test_a_restore_that_cannot_be_done_leaves_no_passwords_behind(home: Path, found: ServiceSettings) -> None:
    backup = home / "backup"
    backup.mkdir()
    for name in ("mlflow.dump", "mlflow_auth.dump", "prefect.dump", "artifacts.tar"):
        (backup / name).touch()
    settings.path().rename(backup / "env")
    code, _, err = dae("restore", str(backup), "--yes")
    assert (code, "PostgreSQL must be installed" in " ".join(err.split())) == (1, True), err
    assert not settings.path().exists()


def test_down_and_status_where_nothing_runs(found: ServiceSettings, own_ports: dict[str, int]) -> None:
    assert dae("down") == (0, "No services are running.\n", "")
    code, out, err = dae("status")
    assert (code, err) == (1, "")
    addresses = {
        "postgres": f"127.0.0.1:{own_ports['postgres']}",
        "mlflow": f"http://127.0.0.1:{own_ports['mlflow']}",
        "prefect": f"http://127.0.0.1:{own_ports['prefect']}",
        "worker": "of work pool dae",
    }
    for line, (name, address) in zip(out.splitlines(), addresses.items(), strict=True):
        assert line.split() == [name, *address.split(), "not", "running"]


def test_a_service_that_others_keep_is_healthy_all_the_same(
    found: ServiceSettings, answering: Callable[[int], int]
) -> None:
    """As under systemd: the command that starts them is not the only one."""
    said = lifecycle.report(found.model_copy(update={"mlflow_port": answering(200)}))
    assert {name: told for name, (_, told) in said.items()} == {
        "postgres": "not running",
        "mlflow": "healthy",
        "prefect": "not running",
        "worker": "not running",
    }


def test_no_process_of_the_services_has_the_variables_they_were_set_up_by(
    found: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in found.model_dump().items():
        monkeypatch.setenv(f"DAE_{name.upper()}", str(value))
    own = environment.of_services(found)
    assert not [name for name in own if name.startswith("DAE_") and name not in ("DAE_HOME", "DAE_SERVICES_OF")]
    runs = " ".join(value for name, value in own.items() if name not in environment.SERVERS_OWN)
    for secret in (found.postgres_password, found.postgres_admin_password, found.mlflow_secret_key):
        assert secret not in runs


def test_down_leaves_what_the_services_keep(found: ServiceSettings) -> None:
    kept = found.folder / "artifacts" / "model"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    assert dae("down")[0] == 0
    assert kept.read_text() == "kept"


# Up is refused


def test_without_postgresql_nothing_is_started(home: Path) -> None:
    code, out, err = dae("up")
    assert (code, out) == (1, "")
    assert "apt-get install postgresql" in err
    assert supervision.states(settings.load()) is None
    assert not (home / ".services" / "supervisord.conf").exists()


def test_bad_settings_start_nothing_and_are_not_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAE_PREFECT_PASSWORD", "sesame")
    code, out, err = dae("up")
    assert (code, out) == (2, "")
    assert "DAE_PREFECT_PASSWORD" in err
    assert "sesame" not in err
    assert not (home / ".services").exists()


@pytest.mark.parametrize("name", ["postgres", "mlflow", "prefect"])
def test_a_port_in_use_is_named_with_who_has_it_and_nothing_is_started(
    home: Path, own_ports: dict[str, int], name: str
) -> None:
    install(home, "exit 1")
    with socket.socket() as other:
        other.bind(("127.0.0.1", own_ports[name]))
        other.listen()
        code, out, err = dae("up")
    assert (code, out) == (1, "")
    said = err.replace("\n", " ")
    assert f"port {own_ports[name]} of {name} must be free, but process {os.getpid()} (" in said
    assert f"set DAE_{name.upper()}_PORT in .env to another" in said
    assert supervision.states(settings.load()) is None
    assert supervision.listener(own_ports[name]) is None


# supervisord, without a PostgreSQL that runs


@pytest.fixture
def nothing_is_left(home: Path) -> Iterator[None]:
    yield
    left = [each for each in processes_of(home / ".services") if each.is_running()]
    for each in left:
        each.kill()
    assert left == []


def processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(environment.MARK) == str(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.usefixtures("nothing_is_left")
def test_a_service_that_does_not_start_is_told_with_its_log_and_down_stops_the_rest(
    home: Path, found: ServiceSettings
) -> None:
    install(home, "echo it cannot be; exit 1")
    postgres.cluster(found).mkdir(parents=True)
    (postgres.cluster(found) / "PG_VERSION").write_text("15\n")
    code, out, err = dae("up")
    assert code == 1
    assert out == "waiting for postgres ...\n"
    assert "postgres is not healthy: " in err
    assert err.rstrip().endswith("it cannot be")

    assert supervision.states(found) == {
        "postgres": "FATAL",
        "mlflow": "STOPPED",
        "prefect": "STOPPED",
        "worker": "STOPPED",
    }
    code, out, _ = dae("status")
    assert code == 1
    assert "not running" not in out
    assert "healthy" not in out
    assert "Connection refused" in out
    before = supervision.pid(found)
    supervision.launch(found)
    assert supervision.pid(found) == before

    secrets = {value for name, value in found.model_dump().items() if "password" in name or "secret" in name}
    shown = " ".join(" ".join(process.cmdline()) for process in processes_of(found.folder))
    shown += (found.folder / "supervisord.conf").read_text()
    assert "supervisord" in shown
    assert not [value for value in secrets if value in shown]
    for file in ("client.env", "basic_auth.ini"):
        assert (found.folder / file).stat().st_mode & 0o077 == 0
    assert found.socket.stat().st_mode & 0o077 == 0

    assert dae("down")[0] == 0
    assert supervision.states(found) is None


# After a kill


def left_behind(folder: Path, script: str) -> subprocess.Popen[str]:
    """Start a process as one of the services in a folder; it runs, and says so."""
    environ = os.environ | {environment.MARK: str(folder)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


SLEEP = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


def test_what_a_killed_supervisor_left_is_stopped_and_nothing_else(found: ServiceSettings, home: Path) -> None:
    with left_behind(found.folder, SLEEP) as left, left_behind(home / "another", SLEEP) as other:
        try:
            assert dae("down") == (0, f"Stopped: process {left.pid}, left behind.\n", "")
            assert not psutil.pid_exists(left.pid)
            assert other.poll() is None
            assert dae("down")[1] == "No services are running.\n"
        finally:
            left.kill()
            other.kill()


def test_a_port_of_what_was_left_behind_is_told_so(home: Path, found: ServiceSettings) -> None:
    install(home, "exit 1")
    listen = f"import socket; s = socket.create_server(('127.0.0.1', {found.mlflow_port})); "
    with left_behind(found.folder, listen + SLEEP) as left:
        try:
            code, _, err = dae("up")
            assert code == 1
            assert f"process {left.pid} (" in err
            assert "make services-down stops it" in err.replace("\n", " ")
        finally:
            left.kill()


def test_a_process_that_does_not_end_when_told_is_killed(
    found: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "PATIENCE", 0.3)
    with left_behind(found.folder, SLEEP) as ready, left_behind(found.folder, DEAF) as deaf:
        lifecycle.end([psutil.Process(ready.pid), psutil.Process(deaf.pid)])
        assert not psutil.pid_exists(ready.pid)
        assert not psutil.pid_exists(deaf.pid)


def test_one_command_at_a_time_changes_the_services(found: ServiceSettings) -> None:
    found.folder.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with (found.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            waiting = pool.submit(lifecycle.down, found)
            with pytest.raises(Unfinished):
                waiting.result(timeout=0.3)
        assert waiting.result(timeout=30) == []


# Health


def at(found: ServiceSettings, port: int) -> ServiceSettings:
    """Return settings under which a port is both MLflow's and Prefect's."""
    return found.model_copy(update={"mlflow_port": port, "prefect_port": port})


@pytest.mark.parametrize("name", ["mlflow", "prefect"])
@pytest.mark.parametrize(
    ("status", "said"), [(200, None), (401, "the password in .env is not the server's"), (503, "HTTP status 503")]
)
def test_a_server_is_healthy_if_it_answers_who_logs_in(
    found: ServiceSettings, answering: Callable[[int], int], name: str, status: int, said: str | None
) -> None:
    assert health.trouble(at(found, answering(status)), name) == said


@pytest.mark.parametrize("name", ["postgres", "mlflow", "prefect", "worker"])
def test_a_service_that_does_not_answer_is_in_trouble(found: ServiceSettings, name: str) -> None:
    assert "refused" in str(health.trouble(found, name))


def test_no_worker_is_trouble_though_the_server_answers(
    found: ServiceSettings, answering: Callable[[int], int]
) -> None:
    assert health.trouble(at(found, answering(404)), "worker") == NO_WORKER


def test_a_worker_that_the_server_calls_online_though_it_was_killed_is_trouble(
    found: ServiceSettings, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "WORK_POOL", "ghosts")
    at_server = at(found, int(os.environ["PREFECT_API_URL"].split(":")[2].split("/")[0]))
    like_a_worker = [sys.executable, "-c", SLEEP, "prefect", "worker", "start"]
    with get_client(sync_client=True) as client, subprocess.Popen(like_a_worker, stdout=subprocess.PIPE) as worker:
        client.create_work_pool(WorkPoolCreate(name="ghosts", type="process"))
        client.request(
            "POST",
            "/work_pools/{work_pool_name}/workers/heartbeat",
            path_params={"work_pool_name": "ghosts"},
            json={"name": supervision.worker_name(worker.pid)},
        )
        assert health.trouble(at_server, "worker") is None
        worker.kill()
        worker.wait()
        assert health.trouble(at_server, "worker") == NO_WORKER
        client.delete_work_pool("ghosts")
