"""PostgreSQL: a cluster of the user, created with Debian's programs, and its databases."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from dae.services import environment
from dae.services.settings import CLUSTER, LOOPBACK, ServiceSettings

ROLE, ADMIN = "dae", "postgres"
DEBIAN = Path("/usr/lib/postgresql")
SERVERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root: whoever is root runs it as the first of these users there is."""


class ServicesError(RuntimeError):
    """A service cannot be started, reached or stopped; the message says which and why."""


def binary(settings: ServiceSettings, name: str) -> str:
    """Return the path of a program of PostgreSQL: of the version that made the cluster, or else of the newest one.

    Raises
    ------
    ServicesError
        If it is not installed.
    """
    made_with = cluster(settings) / "PG_VERSION"
    version = made_with.read_text().strip() if made_with.exists() else "*"
    folders = sorted(DEBIAN.glob(f"{version}/bin"), key=lambda folder: float(folder.parent.name))
    program = (
        shutil.which(name, path=str(folders[-1])) if folders else shutil.which(name) if not DEBIAN.exists() else None
    )
    if program is None:
        which = "" if version == "*" else f" {version}, which made {cluster(settings)},"
        raise ServicesError(
            f"PostgreSQL{which} must be installed (Debian: apt-get install postgresql), found no {name}"
        )
    return program


def user() -> str | None:
    """Return the user PostgreSQL runs as, None for whoever asks.

    Raises
    ------
    ServicesError
        If root asks, and there is no other user.
    """
    if os.geteuid() != 0:
        return None
    for name in SERVERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ServicesError(f"PostgreSQL does not run as root, and there is none of the users {', '.join(SERVERS)}")


def cluster(settings: ServiceSettings) -> Path:
    """Return the folder of the cluster."""
    return settings.folder / CLUSTER


def command(settings: ServiceSettings) -> str:
    """Return the command line of the server: it listens on its port alone, not in the file system."""
    where = f"-h {LOOPBACK} -p {settings.postgres_port} -k ''"
    server = binary(settings, "postgres")
    return f"{shlex.quote(server)} -D {shlex.quote(str(cluster(settings)))} {where} -c max_connections=200"


def initialise(settings: ServiceSettings) -> None:
    """Create the cluster if it does not exist. A cluster that was not completed is created again.

    Raises
    ------
    ServicesError
        If PostgreSQL's user cannot reach the folder, or initdb fails.
    """
    target, owner = cluster(settings), user()
    if (target / "PG_VERSION").exists():
        return
    draft = target.with_name(".postgres-draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    secret = target.with_name(".postgres-password")
    try:
        secret.touch(mode=0o600)
        secret.write_text(settings.postgres_admin_password)
        if owner:
            shutil.chown(draft, owner)
            shutil.chown(secret, owner)
        _require_reach(draft, owner)
        auth = ["--username", ADMIN, "--pwfile", str(secret), "--auth", "scram-sha-256"]
        _run([binary(settings, "initdb"), "-D", str(draft), *auth, "--encoding", "UTF8", "--locale", "C.UTF-8"], owner)
        draft.rename(target)
    finally:
        secret.unlink(missing_ok=True)
        shutil.rmtree(draft, ignore_errors=True)


def _require_reach(folder: Path, owner: str | None) -> None:
    if owner and _as(["test", "-w", str(folder)], owner).returncode != 0:
        raise ServicesError(
            f"PostgreSQL does not run as root but as {owner}, who must be able to reach {folder}: set DAE_SERVICES_FOLDER "
            "to a folder whose parents others may enter, or run as another user than root"
        )


def _as(command: list[str], owner: str | None, **options: Any) -> subprocess.CompletedProcess[str]:
    who: dict[str, Any] = {"user": owner, "group": pwd.getpwnam(owner).pw_gid, "extra_groups": []} if owner else {}
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **who, **options)


def _run(command: list[str], owner: str | None = None, **options: Any) -> None:
    completed = _as(command, owner, **options)
    if completed.returncode != 0:
        raise ServicesError(f"{Path(command[0]).name} failed: {(completed.stderr or completed.stdout).strip()[-2000:]}")


def connection(settings: ServiceSettings, database: str = "postgres") -> Any:
    """Return a connection as the superuser, with autocommit.

    Raises
    ------
    psycopg2.OperationalError
        If the server does not answer or does not let one in.
    """
    import psycopg2

    opened = psycopg2.connect(
        host=LOOPBACK,
        port=settings.postgres_port,
        user=ADMIN,
        password=settings.postgres_admin_password,
        dbname=database,
        connect_timeout=5,
    )
    opened.autocommit = True
    return opened


def prepare(settings: ServiceSettings) -> None:
    """Make the role and the databases where they are missing, and give the role its password."""
    from psycopg2 import sql

    with closing(connection(settings)) as opened, opened.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,))
        verb = "ALTER" if cursor.fetchone() else "CREATE"
        statement = sql.SQL(verb + " ROLE {} LOGIN PASSWORD {}")
        cursor.execute(statement.format(sql.Identifier(ROLE), sql.Literal(settings.postgres_password)))
        for name in environment.DATABASES:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
            if cursor.fetchone() is None:
                _create(cursor, name)


def _create(cursor: Any, name: str) -> None:
    from psycopg2 import sql

    cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(ROLE)))
    cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))


def dump(settings: ServiceSettings, name: str, file: Path) -> None:
    """Write a database to a file, in pg_dump's own format.

    Raises
    ------
    ServicesError
        If pg_dump fails.
    """
    _run(
        [binary(settings, "pg_dump"), "--format=custom", "--file", str(file), *_address(settings), name],
        env=_secret(settings),
    )


def restore_beside(settings: ServiceSettings, name: str, file: Path) -> None:
    """Restore a database under another name, beside the one there is.

    Raises
    ------
    ServicesError
        If pg_restore fails.
    """
    from psycopg2 import sql

    fresh = f"{name}_restored"
    with closing(connection(settings)) as opened, opened.cursor() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(fresh)))
        _create(cursor, fresh)
    target = ["--exit-on-error", "--no-owner", "--dbname", fresh]
    _run([binary(settings, "pg_restore"), *target, *_address(settings), str(file)], env=_secret(settings))


def put_in_place(settings: ServiceSettings, names: Sequence[str]) -> None:
    """Replace the databases with the restored ones, all of them or none, and keep the former ones.

    Raises
    ------
    ServicesError
        If one cannot be renamed; none was then.
    """
    import psycopg2
    from psycopg2 import sql

    def rename(cursor: Any, old: str, new: str) -> None:
        cursor.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new)))

    drop_replaced(settings, names)
    with closing(connection(settings)) as opened, opened.cursor() as cursor:
        opened.autocommit = False
        try:
            for name in names:
                rename(cursor, name, f"{name}_before")
                rename(cursor, f"{name}_restored", name)
        except psycopg2.Error as error:
            raise ServicesError(f"the databases are as they were: {' '.join(str(error).split())}") from error
        opened.commit()


def drop_replaced(settings: ServiceSettings, names: Sequence[str]) -> None:
    """Remove the former databases that `put_in_place` kept, if there are any."""
    from psycopg2 import sql

    with closing(connection(settings)) as opened, opened.cursor() as cursor:
        for name in names:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(f"{name}_before")))


def _address(settings: ServiceSettings) -> list[str]:
    return ["--host", LOOPBACK, "--port", str(settings.postgres_port), "--username", ROLE]


def _secret(settings: ServiceSettings) -> dict[str, str]:
    return {**os.environ, "PGPASSWORD": settings.postgres_password}
