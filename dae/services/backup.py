"""Backing up and restoring all data of the services: the databases, the artifacts and the passwords."""

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


def back_up(service_settings: ServiceSettings, target: Path, say: Say) -> None:
    """Write a backup into a new folder, while the services run.

    The artifacts are copied after the databases, so that every artifact a database names is in the backup.

    Raises
    ------
    ConfigError
        If `target` exists.
    ServicesError
        If PostgreSQL does not run, or a dump fails. No partial backup remains then.
    """
    if target.exists():
        raise ConfigError(f"FOLDER must not be there yet, received {target}")
    if (trouble := health.trouble(service_settings, "postgres")) is not None:
        raise ServicesError(
            f"PostgreSQL must be running, {command_lines.make_command('services')} starts it: {trouble}"
        )
    with storage.atomic_folder(target) as draft:
        umask = os.umask(0o077)
        try:
            _write(service_settings, draft, say)
        finally:
            os.umask(umask)
    target.chmod(0o700)


def _write(service_settings: ServiceSettings, draft: Path, say: Say) -> None:
    for name in environment.DATABASES:
        say(f"dumping {name} ...")
        postgres.dump(service_settings, name, draft / f"{name}.dump")
    say("copying the artifacts ...")
    with tarfile.open(draft / ARTIFACTS, "w") as archive:
        archive.add(service_settings.folder / "artifacts", arcname="artifacts", filter=_not_half_written)
    settings.write_private(draft / ENVIRONMENT, settings.text(service_settings))


def _not_half_written(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith((".part", ".tmp")) else member


def restore(source: Path, say: Say) -> None:
    """Replace all data by a backup; its passwords are used if there are none here. The services must be down.

    Raises
    ------
    ConfigError
        If `source` is not a complete backup, or ``.env`` has another password for MLflow.
    ServicesError
        If the services are up, or a database cannot be restored. Nothing is changed then.
    """
    files = [f"{name}.dump" for name in environment.DATABASES] + [ARTIFACTS, ENVIRONMENT]
    if missing := [name for name in files if not (source / name).is_file()]:
        raise ConfigError(f"{source} must be a backup: {', '.join(missing)} is missing")
    created = _environment(source / ENVIRONMENT)
    try:
        service_settings = settings.load()
        _require_password(service_settings, source / ENVIRONMENT)
        _with_database_alone(service_settings, say, lambda: _put_back(service_settings, source, say))
    except BaseException:
        if created:
            settings.path().unlink()
        raise


def _environment(backup: Path) -> bool:
    """Create ``.env`` from the backup if neither it nor the environment has the variables; return whether it was created."""
    if settings.path().exists():
        return False
    try:
        settings.load()
    except ConfigError:
        settings.write_private(settings.path(), backup.read_text(encoding="utf-8"))
        return True
    return False


def _require_password(service_settings: ServiceSettings, backup: Path) -> None:
    """Refuse to restore MLflow's users with another password than the backup's: nobody could log in."""
    passwords = re.findall(r"^DAE_MLFLOW_PASSWORD=(.*)$", backup.read_text(encoding="utf-8"), re.MULTILINE)
    if passwords != [service_settings.mlflow_password]:
        raise ConfigError(
            f"DAE_MLFLOW_PASSWORD, of the environment or {settings.path()}, must be that of the backup, which MLflow's users "
            f"are part of: set it to the one in {backup}, or move {settings.path()} and "
            f"{postgres.cluster(service_settings)} away to have both made of the backup"
        )


def _put_back(service_settings: ServiceSettings, source: Path, say: Say) -> None:
    """Restore everything beside the present data, then swap both. The services do not start until the swap is complete."""
    fresh, old = service_settings.folder / ".artifacts-restored", service_settings.folder / ".artifacts-before"
    shutil.rmtree(fresh, ignore_errors=True)
    say("unpacking the artifacts ...")
    with tarfile.open(source / ARTIFACTS) as archive:
        # Extract nothing outside the folder. Early releases of Python 3.11, such as Debian 12's, have no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(fresh)
    for name in environment.DATABASES:
        say(f"restoring {name} ...")
        postgres.restore_beside(service_settings, name, source / f"{name}.dump")
    mark = lifecycle.half_restored(service_settings)
    mark.write_text(f"{source}\n", encoding="utf-8")
    try:
        postgres.put_in_place(service_settings, environment.DATABASES)
    except ServicesError:  # nothing was changed
        mark.unlink()
        raise
    shutil.rmtree(old, ignore_errors=True)
    if (service_settings.folder / "artifacts").exists():
        (service_settings.folder / "artifacts").rename(old)
    (fresh / "artifacts").rename(service_settings.folder / "artifacts")
    mark.unlink()
    postgres.drop_replaced(service_settings, environment.DATABASES)
    shutil.rmtree(fresh)
    shutil.rmtree(old, ignore_errors=True)


def upgrade(service_settings: ServiceSettings, say: Say) -> None:
    """Migrate the databases to the schemas of the installed MLflow and Prefect. The services must be down.

    Raises
    ------
    ServicesError
        If the services are up, or a migration fails.
    """
    lifecycle.require_whole(service_settings)
    _with_database_alone(service_settings, say, lambda: _migrate(service_settings, say))


def _migrate(service_settings: ServiceSettings, say: Say) -> None:
    def without_password(
        name: str,
    ) -> str:  # libpq reads it from the environment, since every user can read a command line
        return service_settings.database(name, "psycopg2").replace(f":{service_settings.postgres_password}@", "@")

    commands = {
        "mlflow": ["mlflow", "db", "upgrade", without_password("mlflow")],
        "mlflow_auth": ["mlflow.server.auth", "db", "upgrade", "--url", without_password("mlflow_auth")],
        "prefect": ["prefect", "server", "database", "upgrade", "--yes"],
    }
    for name, command in commands.items():
        say(f"migrating {name} ...")
        completed = subprocess.run(
            [sys.executable, "-m", *command],
            env=environment.of_services(service_settings) | {"PGPASSWORD": service_settings.postgres_password},
            cwd=storage.project_home(),  # Prefect looks for a file in the working directory, which must be readable
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode != 0:
            output = (completed.stdout + completed.stderr)[-3000:].replace(service_settings.postgres_password, "...")
            raise ServicesError(f"the migration of {name} ended with exit code {completed.returncode}: {output}")


def _with_database_alone(service_settings: ServiceSettings, say: Say, work: Callable[[], None]) -> None:
    """Call `work` while only PostgreSQL runs. It is stopped afterwards, unless it was started by other means."""
    with lifecycle.changing(service_settings):
        if supervision.states(service_settings) is not None:
            raise ServicesError(f"the services must be down: {command_lines.make_command('services-down')}")
        for name in ("mlflow", "prefect"):
            if (process := supervision.listener(service_settings.ports()[name])) is not None:
                raise ServicesError(
                    f"{name} must be down, but {process} listens on its port {service_settings.ports()[name]}"
                )
        if health.trouble(service_settings, "postgres") is None:  # such as by systemd
            work()
            return
        try:
            lifecycle.database(service_settings, say)
            work()
        finally:
            lifecycle.stop_all(service_settings)
