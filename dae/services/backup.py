"""Backing up everything the services keep, and putting it back: the databases, the artifacts, the passwords."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from dae import command_lines, storage
from dae.config.schema import ConfigError
from dae.services import environment, health, lifecycle, postgres, settings, supervision
from dae.services.lifecycle import Say
from dae.services.postgres import ServicesError
from dae.services.settings import ServiceSettings

ARTIFACTS, ENVIRONMENT = "artifacts.tar", "env"


def back_up(found: ServiceSettings, target: Path, say: Say) -> None:
    """Write a backup into a new folder, while the services run.

    The artifacts are copied after the databases: what a database names was written before it was named.

    Raises
    ------
    ConfigError
        If there is something at `target`.
    ServicesError
        If PostgreSQL does not run, or a dump fails; nothing is left behind then.
    """
    if target.exists():
        raise ConfigError(f"FOLDER must not be there yet, received {target}")
    if (trouble := health.trouble(found, "postgres")) is not None:
        raise ServicesError(
            f"PostgreSQL must be running, {command_lines.make_command('services')} starts it: {trouble}"
        )
    with storage.atomic_folder(target) as draft:
        before = os.umask(0o077)
        try:
            _write(found, draft, say)
        finally:
            os.umask(before)
    target.chmod(0o700)


def _write(found: ServiceSettings, draft: Path, say: Say) -> None:
    for name in environment.DATABASES:
        say(f"dumping {name} ...")
        postgres.dump(found, name, draft / f"{name}.dump")
    say("copying the artifacts ...")
    with tarfile.open(draft / ARTIFACTS, "w") as archive:
        archive.add(found.folder / "artifacts", arcname="artifacts", filter=_not_half_written)
    settings.write_private(draft / ENVIRONMENT, settings.text(found))


def _not_half_written(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith((".part", ".tmp")) else member


def restore(source: Path, say: Say) -> None:
    """Put a backup in place of all there is, with its passwords where there are none here. The services must be down.

    Raises
    ------
    ConfigError
        If `source` is not a whole backup, or ``.env`` has another password for MLflow.
    ServicesError
        If the services are up, or a database cannot be restored: all is then as it was.
    """
    wanted = [f"{name}.dump" for name in environment.DATABASES] + [ARTIFACTS, ENVIRONMENT]
    if missing := [name for name in wanted if not (source / name).is_file()]:
        raise ConfigError(f"{source} must be a backup: {', '.join(missing)} is missing")
    made = _environment(source / ENVIRONMENT)
    try:
        found = settings.load()
        _require_password(found, source / ENVIRONMENT)
        _with_database_alone(found, say, lambda: _put_back(found, source, say))
    except BaseException:
        if made:
            settings.path().unlink()
        raise


def _environment(backup: Path) -> bool:
    """Make ``.env`` of the backup where neither it nor the environment has the variables; tell whether that was done."""
    if settings.path().exists():
        return False
    try:
        settings.load()
    except ConfigError:
        settings.write_private(settings.path(), backup.read_text(encoding="utf-8"))
        return True
    return False


def _require_password(found: ServiceSettings, backup: Path) -> None:
    """Refuse to put back MLflow's users under another password than theirs: nobody could log in."""
    theirs = re.findall(r"^DAE_MLFLOW_PASSWORD=(.*)$", backup.read_text(encoding="utf-8"), re.MULTILINE)
    if theirs != [found.mlflow_password]:
        raise ConfigError(
            f"DAE_MLFLOW_PASSWORD, of the environment or {settings.path()}, must be that of the backup, which MLflow's users "
            f"are part of: set it to the one in {backup}, or move {settings.path()} and {postgres.cluster(found)} away to have "
            "both made of the backup"
        )


def _put_back(found: ServiceSettings, source: Path, say: Say) -> None:
    """Make everything whole beside what there is, then put it in place; until that is done the services do not start."""
    fresh, old = found.folder / ".artifacts-restored", found.folder / ".artifacts-before"
    shutil.rmtree(fresh, ignore_errors=True)
    say("unpacking the artifacts ...")
    with tarfile.open(source / ARTIFACTS) as archive:
        # Nothing outside the folder; the first releases of Python 3.11, Debian 12's among them, know no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(fresh)
    for name in environment.DATABASES:
        say(f"restoring {name} ...")
        postgres.restore_beside(found, name, source / f"{name}.dump")
    mark = lifecycle.half_restored(found)
    mark.write_text(f"{source}\n", encoding="utf-8")
    try:
        postgres.put_in_place(found, environment.DATABASES)
    except ServicesError:  # and nothing was
        mark.unlink()
        raise
    shutil.rmtree(old, ignore_errors=True)
    if (found.folder / "artifacts").exists():
        (found.folder / "artifacts").rename(old)
    (fresh / "artifacts").rename(found.folder / "artifacts")
    mark.unlink()
    postgres.drop_replaced(found, environment.DATABASES)
    shutil.rmtree(fresh)
    shutil.rmtree(old, ignore_errors=True)


def upgrade(found: ServiceSettings, say: Say) -> None:
    """Bring the databases to what the installed MLflow and Prefect expect. The services must be down.

    Raises
    ------
    ServicesError
        If the services are up, or a migration fails.
    """
    lifecycle.require_whole(found)
    _with_database_alone(found, say, lambda: _migrate(found, say))


def _migrate(found: ServiceSettings, say: Say) -> None:
    def without_password(name: str) -> str:  # which libpq has from the environment: anybody can read a command line
        return found.database(name, "psycopg2").replace(f":{found.postgres_password}@", "@")

    commands = {
        "mlflow": ["mlflow", "db", "upgrade", without_password("mlflow")],
        "mlflow_auth": ["mlflow.server.auth", "db", "upgrade", "--url", without_password("mlflow_auth")],
        "prefect": ["prefect", "server", "database", "upgrade", "--yes"],
    }
    for name, command in commands.items():
        say(f"migrating {name} ...")
        done = subprocess.run(
            [sys.executable, "-m", *command],
            env=environment.of_services(found) | {"PGPASSWORD": found.postgres_password},
            cwd=storage.project_home(),  # not one that this user may not enter: Prefect looks for a file there
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-3000:].replace(found.postgres_password, "...")
            raise ServicesError(f"the migration of {name} ended with exit code {done.returncode}: {said}")


def _with_database_alone(found: ServiceSettings, say: Say, work: Callable[[], None]) -> None:
    """Do something while PostgreSQL runs and nothing else does; it is down before and after, unless others keep it."""
    with lifecycle.changing(found):
        if supervision.states(found) is not None:
            raise ServicesError(f"the services must be down: {command_lines.make_command('services-down')}")
        for name in ("mlflow", "prefect"):
            if (who := supervision.listener(found.ports()[name])) is not None:
                raise ServicesError(f"{name} must be down, but {who} listens on its port {found.ports()[name]}")
        if health.trouble(found, "postgres") is None:  # as under systemd's units
            work()
            return
        try:
            lifecycle.database(found, say)
            work()
        finally:
            lifecycle.stop_all(found)
