"""Prefect's temporary server for one command, in a process that ends with the command, however the command ends.

A server that Prefect starts by itself shares the terminal with the command. Ctrl-C stops the server first, so the flow run can
no longer report how it ended. If the command is killed, the server keeps running. If the database cannot be used, Prefect
restarts the server until a timeout. The server of this module has its own session, stops when its standard input closes, which
also happens when the command is killed, and reports at once why it does not start.
"""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from dae import runtime

ERROR, NOTE = "error: ", "note: "
OWN = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",  # done before, when an error can still be reported
}
"""The settings of Prefect's own temporary server: it serves no pages and starts no scheduler."""
GRACE = 5
"""Seconds that requests may still take after the command has ended."""
SUFFIXES = ("", "-wal", "-shm")
"""Suffixes of the files of one SQLite database."""
logger = logging.getLogger("dae.server")


class ServerError(RuntimeError):
    """The server did not start; the message says why."""


def start_server() -> Callable[[], str]:
    """Start Prefect's temporary server, unless one is configured, and return a function that waits for its API URL.

    Call it before Prefect is imported, so that at exit Prefect sends its last messages before the server is stopped. If the
    server does not start, the returned function raises a `ServerError` with the server's own error.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        return lambda: configured
    stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115  (it outlives this function)
    # -P: the working directory may contain another package named flows.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "flows.deployment.local_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    atexit.register(process.stdin.close)
    first_line = process.stdout.readline

    def url() -> str:
        line = first_line().strip()
        while line.startswith(NOTE):
            logger.warning("%s", line.removeprefix(NOTE))
            line = first_line().strip()
        if not line or line.startswith(ERROR):
            reason = line.removeprefix(ERROR) or _describe_exit(process, stderr)
            raise ServerError(f"Prefect's temporary server did not start: {reason}")
        return line

    return url


def _describe_exit(process: subprocess.Popen[str], stderr: IO[str]) -> str:
    """Return the exit code and the last line of standard error of a process that printed no error of its own."""
    stderr.seek(0)
    return " ".join([f"exit code {process.wait()}", *stderr.read().strip().splitlines()[-1:]])


def serve_until_closed() -> None:
    """Serve until standard input closes, unless a profile names a server. Print the API URL or an error."""
    os.environ.update(OWN)  # before Prefect is imported
    try:
        from prefect.settings import get_current_settings

        if configured := get_current_settings().api.url:
            _say(configured)
            return
        with in_use(lambda note: _say(NOTE + note)):
            _serve()
    except Exception as error:  # noqa: BLE001  (the command reports it)
        _say(f"{ERROR}{type(error).__name__}: {error}")


def _serve() -> None:
    """Serve on a free local port until standard input closes."""
    import uvicorn

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets=sockets)
                if self.started:
                    _say(f"http://127.0.0.1:{listening.getsockname()[1]}/api")

        config = uvicorn.Config(
            "prefect.server.api.server:create_app",
            factory=True,
            lifespan="on",
            log_level="error",
            timeout_graceful_shutdown=GRACE,
        )
        server = Server(config)
        threading.Thread(target=_stop_with_command, args=(server,), daemon=True).start()
        with _Errors() as errors:
            asyncio.run(server.serve(sockets=[listening]))
        if not server.started:
            raise ServerError(errors.last or "it stopped as it started")


def _stop_with_command(server: object) -> None:
    """Wait for standard input to close, then stop the server; exit the process if that takes too long."""
    sys.stdin.read()
    server.should_exit = True  # type: ignore[attr-defined]
    threading.Event().wait(2 * GRACE)
    os._exit(0)


class _Errors(logging.Handler):
    """Keeps the last line of the error that the server's application raises at startup."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        lines = record.getMessage().strip().splitlines()
        if len(lines) > 1:  # a traceback; a notice is one line
            self.last = lines[-1]

    def __enter__(self) -> _Errors:
        logging.getLogger("uvicorn.error").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("uvicorn.error").removeHandler(self)


def _say(line: str) -> None:
    print(line.replace("\n", " "), flush=True)


class DatabaseError(RuntimeError):
    """A database cannot be used; the message says which, why, and what to do."""


class UnknownSchemaError(DatabaseError):
    """The database was created by another version of Prefect."""


@contextmanager
def in_use(say: Callable[[str], None]) -> Iterator[None]:
    """Migrate the configured database to the schema of the installed Prefect, and lock it against renaming during the block.

    Parameters
    ----------
    say : Callable
        Called with a sentence about the database that was renamed, if one was.

    Raises
    ------
    DatabaseError
        If the database cannot be used.
    """
    from prefect.settings import get_current_settings

    home = get_current_settings().home
    with (home / ".migrating").open("w") as migrating, (home / ".serving").open("w") as serving:
        fcntl.flock(migrating, fcntl.LOCK_EX)  # two simultaneous first starts would both create the tables
        try:
            _migrate()
        except UnknownSchemaError as error:
            backup = _rename_database(error, serving)
            say(f"{error}. It is kept as {backup}, and a new one is begun; what MLflow recorded is all there")
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


def _rename_database(error: DatabaseError, serving: IO[str]) -> Path:
    """Rename the project's own database unless a server uses it, and return its new path. Other databases are not touched."""
    own = runtime.prefect_home() / "prefect.db"
    if _location() != str(own):
        raise DatabaseError(f"{error}. Use that version, or name another database or PREFECT_HOME") from error
    try:
        fcntl.flock(serving, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DatabaseError(f"{error}, and a command of that version is at work on it. Wait for it to end") from error
    backup = own.with_name(f"prefect-{datetime.now():%Y%m%d-%H%M%S}.db")
    for suffix in SUFFIXES:
        if (file := own.with_name(own.name + suffix)).exists():
            file.rename(backup.with_name(backup.name + suffix))
    return backup


def _location() -> str:
    """Return the path of an SQLite database, or the address of any other database without its password."""
    from prefect.settings import get_current_settings
    from sqlalchemy import make_url

    address = get_current_settings().server.database.connection_url
    url = make_url(address.get_secret_value() if address else "")
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


if __name__ == "__main__":
    serve_until_closed()
