"""The database of Prefect's temporary server: brought up to date, or set aside where a newer Prefect made it."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from dae import runtime

ENDINGS = ("", "-wal", "-shm")
"""Of the files that are one SQLite database."""


class DatabaseError(RuntimeError):
    """A database that cannot be used: which, why, and what to do."""


class UnknownSchemaError(DatabaseError):
    """A database that another version of Prefect made."""


@contextmanager
def in_use(say: Callable[[str], None]) -> Iterator[None]:
    """Bring the configured database to the installed Prefect's schema, and let nobody set it aside during the block.

    Parameters
    ----------
    say : Callable
        Told in a sentence what was set aside, if anything was.

    Raises
    ------
    DatabaseError
        If it cannot be used.
    """
    from prefect.settings import get_current_settings

    home = get_current_settings().home
    with (home / ".migrating").open("w") as migrating, (home / ".serving").open("w") as serving:
        fcntl.flock(migrating, fcntl.LOCK_EX)  # two first starts at once would both make the tables
        try:
            _migrate()
        except UnknownSchemaError as error:
            kept = _set_aside(error, serving)
            say(f"{error}. It is kept as {kept}, and a new one is begun; what MLflow recorded is all there")
            _migrate()
        fcntl.flock(serving, fcntl.LOCK_SH)
        fcntl.flock(migrating, fcntl.LOCK_UN)
        yield


def _migrate() -> None:
    import prefect
    from alembic.util import CommandError
    from prefect.server.database import provide_database_interface
    from sqlalchemy.exc import SQLAlchemyError

    try:
        asyncio.run(provide_database_interface().create_db())
    except CommandError as error:
        if "locate revision" not in str(error):
            raise
        rule = f"made by another version of Prefect than the {prefect.__version__} installed here"
        raise UnknownSchemaError(f"Prefect's database {_location()} was {rule}: {error}") from error
    except SQLAlchemyError as error:
        raise DatabaseError(f"Prefect's database {_location()} cannot be used: {error.args[0]}") from error


def _set_aside(why: DatabaseError, serving: IO[str]) -> Path:
    """Rename the project's own database, unless a server works on it, and return its new path; no other is touched."""
    own = runtime.prefect_home() / "prefect.db"
    if _location() != str(own):
        raise DatabaseError(f"{why}. Use that version, or name another database or PREFECT_HOME") from why
    try:
        fcntl.flock(serving, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DatabaseError(f"{why}, and a command of that version is at work on it. Wait for it to end") from why
    kept = own.with_name(f"prefect-{datetime.now():%Y%m%d-%H%M%S}.db")
    for ending in ENDINGS:
        if (part := own.with_name(own.name + ending)).exists():
            part.rename(kept.with_name(kept.name + ending))
    return kept


def _location() -> str:
    """Return the path of an SQLite database, or the address of another, without its password."""
    from prefect.settings import get_current_settings
    from sqlalchemy import make_url

    address = get_current_settings().server.database.connection_url
    url = make_url(address.get_secret_value() if address else "")
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
