"""Backing up, losing everything, putting it back; down in the middle of a run; databases brought up to date."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import psycopg2

import dae

from .conftest import LONG, UNTRIED, Promoted, Team, wait


def outputs(uri: str) -> tuple[float, float]:
    """Return what a model makes of an image, in two figures."""
    made = dae.load(uri)(np.linspace(0, 1, 784, dtype=np.float32).reshape(1, 28, 28, 1))
    return float(made.sum()), float(made.std())


def test_after_dump_wipe_and_restore_the_champion_is_the_same(team: Team, promoted: Promoted, everybody: Path) -> None:
    uri = "models:/dae-smoke@champion"
    version, made = team.champion("dae-smoke"), outputs(uri)
    history = team.dae("models", "history", "--name", "dae-smoke").stdout
    runs = sorted(run.info.run_id for run in team.runs())
    secrets = (team.home / ".env").read_text()

    target = everybody / "backup"
    backed = team.dae("services", "backup", str(target), anonymous=True)
    assert backed.returncode == 0, backed.stderr
    assert target.stat().st_mode & 0o077 == 0
    assert team.dae("services", "backup", str(target), anonymous=True).returncode == 2  # never over another
    refused = team.dae("services", "restore", str(target), "--yes", anonymous=True)
    assert (refused.returncode, "must be down" in refused.stderr) == (1, True)

    assert team.dae("services", "down", anonymous=True).returncode == 0
    (team.home / ".env").write_text(re.sub(r"(MLFLOW_PASSWORD)=.*", r"\1=another-password", secrets))
    other = team.dae("services", "restore", str(target), "--yes", anonymous=True)
    assert (other.returncode, "DAE_MLFLOW_PASSWORD" in other.stderr) == (2, True), other.stderr
    shutil.rmtree(team.folder)
    (team.home / ".env").unlink()
    restored = team.dae("services", "restore", str(target), "--yes", anonymous=True)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert (team.home / ".env").read_text() == secrets
    team.hurry()
    up = team.dae("services", "up", anonymous=True)
    assert up.returncode == 0, up.stderr

    assert promoted.champion is not None
    assert team.champion("dae-smoke") == version
    assert outputs(uri) == made
    assert team.dae("models", "history", "--name", "dae-smoke").stdout == history
    assert sorted(run.info.run_id for run in team.runs()) == runs
    assert team.dae("deploy", "--check").returncode == 0
    team.wait_for_worker()
    again = team.dae("trigger", "ci", "--set", "train.epochs=1", *UNTRIED)
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_folder_that_is_no_backup_is_refused_and_nothing_is_touched(team: Team, tmp_path: Path) -> None:
    before = team.champion("dae-smoke")
    (tmp_path / "mlflow.dump").touch()
    done = team.dae("services", "restore", str(tmp_path), "--yes", anonymous=True)
    assert (done.returncode, "prefect.dump" in done.stderr) == (2, True), done.stderr
    assert team.champion("dae-smoke") == before


POSTGRES = """
import os, pwd, shlex
from dae.services import postgres, settings
line, user = shlex.split(postgres.command(settings.load())), postgres.user()
if user:
    os.setgid(pwd.getpwnam(user).pw_gid)
    os.setuid(pwd.getpwnam(user).pw_uid)
os.execv(line[0], line)
"""


@contextmanager
def postgresql_of_others(team: Team) -> Iterator[dict[str, str]]:
    """As under systemd's units: no supervisord, and no .env, but its variables in the environment, which are yielded."""
    file = team.home / ".env"
    variables = dict(line.split("=", 1) for line in file.read_text().splitlines() if line.startswith("DAE_"))
    variables = {name: value for name, value in variables.items() if value and not name.endswith("PORT")}
    hidden = file.rename(team.home / "hidden")
    command = [sys.executable, "-c", POSTGRES]
    with subprocess.Popen(command, env=variables | team.bare, stderr=subprocess.DEVNULL) as server:
        try:
            wait(lambda: "127.0.0.1" in _healthy(team, variables), 60)
            yield variables
            assert server.poll() is None
        finally:
            server.send_signal(signal.SIGINT)
            hidden.rename(file)


def _healthy(team: Team, variables: dict[str, str]) -> str:
    lines = team.dae("services", "status", anonymous=True, more=variables).stdout.splitlines()
    return " ".join(line for line in lines if line.endswith("healthy"))


def test_down_ends_what_runs_and_what_is_down_is_backed_up_and_migrated(team: Team, everybody: Path) -> None:
    version = team.champion("dae-smoke")
    refused = team.dae("services", "upgrade", anonymous=True)
    assert (refused.returncode, "must be down" in refused.stderr) == (1, True)
    with team.triggered("ci", *LONG) as waiting:
        down = team.dae("services", "down", anonymous=True)
        assert down.returncode == 0, down.stderr
        assert team.processes() == []
        waiting.process.kill()
    with postgresql_of_others(team) as variables:
        _a_table_of_an_older_release_is_migrated(team, variables)
        _backed_up_and_not_restored_while_in_use(team, variables, everybody / "beside")
    up = team.dae("services", "up", anonymous=True)
    assert up.returncode == 0, up.stderr

    (run,) = [each for each in team.runs() if each.data.tags.get("prefect.flow_run_id") == waiting.run_id]
    assert run.info.status == "KILLED"
    assert [point.step for point in team.mlflow().get_metric_history(run.info.run_id, "val_mse")][:3] == [1, 2, 3]
    assert team.flow_run(waiting.run_id).state_name == "Crashed"
    assert team.champion("dae-smoke") == version
    assert team.dae("deploy", "--check").returncode == 0


def _a_table_of_an_older_release_is_migrated(team: Team, variables: dict[str, str]) -> None:
    """Prefect's own command takes its tables one step back; MLflow has none that does."""
    now = _revision(team, variables)
    address = f"127.0.0.1:{team.ports['POSTGRES']}/prefect"
    url = f"postgresql+asyncpg://dae:{variables['DAE_POSTGRES_PASSWORD']}@{address}"
    back = [sys.executable, "-m", "prefect", "server", "database", "downgrade", "--yes", "-r", "-1"]
    environment = team.bare | {"PREFECT_API_DATABASE_CONNECTION_URL": url, "PREFECT_HOME": str(team.folder / "prefect")}
    subprocess.run(back, env=environment, cwd=team.home, check=True, capture_output=True)
    assert _revision(team, variables) != now
    done = team.dae("services", "upgrade", anonymous=True, more=variables)
    assert done.returncode == 0, done.stderr
    assert _revision(team, variables) == now


def _revision(team: Team, variables: dict[str, str]) -> str:
    """Return how far Prefect's tables are migrated: its server would do the rest by itself as it starts."""
    login = {"user": "dae", "password": variables["DAE_POSTGRES_PASSWORD"], "dbname": "prefect"}
    with (
        closing(psycopg2.connect(host="127.0.0.1", port=team.ports["POSTGRES"], **login)) as opened,
        opened.cursor() as cursor,
    ):
        cursor.execute("SELECT version_num FROM alembic_version")
        return str(cursor.fetchone()[0])


def _backed_up_and_not_restored_while_in_use(team: Team, variables: dict[str, str], target: Path) -> None:
    done = team.dae("services", "backup", str(target), anonymous=True, more=variables)
    assert done.returncode == 0, done.stderr
    saved = (target / "env").read_text()
    assert all(f"{name}={value}\n" in saved for name, value in variables.items() if "PASSWORD" in name)
    login = {"user": "postgres", "password": variables["DAE_POSTGRES_ADMIN_PASSWORD"], "dbname": "mlflow"}
    with closing(psycopg2.connect(host="127.0.0.1", port=team.ports["POSTGRES"], **login)):
        busy = team.dae("services", "restore", str(target), "--yes", anonymous=True, more=variables)
    assert (busy.returncode, "the databases are as they were" in busy.stderr) == (1, True), busy.stderr
    assert not (team.folder / ".restoring").exists()
