"""Backing up, losing everything, putting it back; and databases of an older release brought up to date."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg2

from .conftest import Team, wait


def outputs(team: Team, uri: str) -> str:
    """Return what a model makes of an image, as text, in a process that is logged in."""
    code = (
        "import dae, numpy as np; "
        f"x = dae.load({uri!r})(np.linspace(0, 1, 784, dtype=np.float32).reshape(1, 28, 28, 1)); print(x.sum(), x.std())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=team.environment, cwd=team.home, capture_output=True, text=True, check=True)
    return done.stdout


def test_after_dump_wipe_and_restore_the_champion_is_the_same(team: Team, everybody: Path) -> None:
    done = team.dae("trigger", "ci")
    assert done.returncode in (0, 10), done.stdout + done.stderr
    uri = "models:/dae-smoke@champion"
    version, made = team.champion("dae-smoke"), outputs(team, uri)
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
    up = team.dae("services", "up", anonymous=True)
    assert up.returncode == 0, up.stderr

    assert team.champion("dae-smoke") == version
    assert outputs(team, uri) == made
    assert team.dae("models", "history", "--name", "dae-smoke").stdout == history
    assert sorted(run.info.run_id for run in team.runs()) == runs
    assert team.dae("deploy", "--check").returncode == 0
    team.wait_for_worker()
    assert team.dae("trigger", "ci").returncode in (0, 10)


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


def test_backup_and_upgrade_take_a_postgresql_that_others_keep(team: Team, everybody: Path) -> None:
    """As under systemd's units: no supervisord, no .env, and what was up stays up."""
    assert team.dae("services", "down", anonymous=True).returncode == 0
    file = team.home / ".env"
    variables = dict(line.split("=", 1) for line in file.read_text().splitlines() if line.startswith("DAE_"))
    variables = {name: value for name, value in variables.items() if value and not name.endswith("PORT")}
    hidden = file.rename(team.home / "hidden")
    command = [sys.executable, "-c", POSTGRES]
    with subprocess.Popen(command, env=variables | team.bare, stderr=subprocess.DEVNULL) as server:
        try:
            wait(lambda: "127.0.0.1" in _healthy(team, variables), 60)
            for arguments in (("upgrade",), ("backup", str(everybody / "beside"))):
                done = team.dae("services", *arguments, anonymous=True, more=variables)
                assert done.returncode == 0, done.stderr
            assert server.poll() is None
            login = {"user": "postgres", "password": variables["DAE_POSTGRES_ADMIN_PASSWORD"], "dbname": "mlflow"}
            with closing(psycopg2.connect(host="127.0.0.1", port=team.ports["POSTGRES"], **login)):
                busy = team.dae(
                    "services", "restore", str(everybody / "beside"), "--yes", anonymous=True, more=variables
                )
            assert (busy.returncode, "the databases are as they were" in busy.stderr) == (1, True), busy.stderr
            assert not (team.folder / ".restoring").exists()
            saved = (everybody / "beside" / "env").read_text()
            assert all(f"{name}={value}\n" in saved for name, value in variables.items() if "PASSWORD" in name)
        finally:
            server.send_signal(signal.SIGINT)
            hidden.rename(file)
    assert team.dae("services", "up", anonymous=True).returncode == 0


def _healthy(team: Team, variables: dict[str, str]) -> str:
    lines = team.dae("services", "status", anonymous=True, more=variables).stdout.splitlines()
    return " ".join(line for line in lines if line.endswith("healthy"))


def test_databases_of_an_older_release_are_migrated(team: Team) -> None:
    """Prefect's own command takes its tables one step back; MLflow has none that does."""
    version = team.champion("dae-smoke")
    refused = team.dae("services", "upgrade", anonymous=True)
    assert (refused.returncode, "must be down" in refused.stderr) == (1, True)
    back = [sys.executable, "-m", "prefect", "server", "database", "downgrade", "--yes", "-r", "-1"]
    secret = dict(line.split("=", 1) for line in (team.home / ".env").read_text().splitlines() if "=" in line)
    url = f"postgresql+asyncpg://dae:{secret['DAE_POSTGRES_PASSWORD']}@127.0.0.1:{team.ports['POSTGRES']}/prefect"
    supervisor = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(team.folder / "supervisord.conf")]
    subprocess.run([*supervisor, "stop", "worker", "prefect"], check=True, capture_output=True)
    environment = team.environment | {"PREFECT_API_DATABASE_CONNECTION_URL": url}
    subprocess.run(back, env=environment, cwd=team.home, check=True, capture_output=True)
    assert team.dae("services", "down", anonymous=True).returncode == 0
    done = team.dae("services", "upgrade", anonymous=True)
    assert done.returncode == 0, done.stderr
    up = team.dae("services", "up", anonymous=True)
    assert up.returncode == 0, up.stderr
    assert team.champion("dae-smoke") == version
    assert team.dae("deploy", "--check").returncode == 0
