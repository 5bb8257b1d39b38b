"""Prefect's temporary server for the length of one command, in a process that ends with the command however that ends.

A server that Prefect starts by itself shares the terminal with the command: Ctrl-C stops it first, and the flow run can no
longer say how it ended. Killed outright, the command would leave the server behind. And if its database cannot be used, Prefect
starts it again and again until the time is up. This one has a session of its own, stops when its standard input closes, which
happens whatever becomes of the command, and says at once why it does not start.
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
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",  # done before, where an error can still be told
}
"""What Prefect sets for a temporary server, so that it serves no pages and starts no scheduler."""
GRACE = 5
"""Seconds that requests may still take once the command has ended."""
ENDINGS = ("", "-wal", "-shm")
"""Of the files that are one SQLite database."""
logger = logging.getLogger("dae.server")


class ServerError(RuntimeError):
    """A server that did not start, and why."""


def start_server() -> Callable[[], str]:
    """Start Prefect's temporary server, unless one is configured, and return a function that waits for its API URL.

    Call it before Prefect is imported: what Prefect still has to tell its server when the process exits is then told first.
    The function raises a `ServerError` with the server's own error if it does not start.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        return lambda: configured
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (it outlives this function)
    # -P: the folder that the command is called in may have a package flows of its own.
    keeper = subprocess.Popen(
        [sys.executable, "-P", "-m", "flows.deployment.local_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        start_new_session=True,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    atexit.register(keeper.stdin.close)
    first_line = keeper.stdout.readline

    def url() -> str:
        line = first_line().strip()
        while line.startswith(NOTE):
            logger.warning("%s", line.removeprefix(NOTE))
            line = first_line().strip()
        if not line or line.startswith(ERROR):
            why = line.removeprefix(ERROR) or _last_word(keeper, said)
            raise ServerError(f"Prefect's temporary server did not start: {why}")
        return line

    return url


def _last_word(process: subprocess.Popen[str], said: IO[str]) -> str:
    """Return how a process ended that could not tell it in a line of its own."""
    said.seek(0)
    return " ".join([f"exit code {process.wait()}", *said.read().strip().splitlines()[-1:]])


def serve_until_closed() -> None:
    """Serve until standard input closes, unless a profile names a server. The first line printed is the API URL or an error."""
    os.environ.update(OWN)  # before Prefect is imported
    try:
        from prefect.settings import get_current_settings

        if configured := get_current_settings().api.url:
            _say(configured)
            return
        with in_use(lambda note: _say(NOTE + note)):
            _serve()
    except Exception as error:  # noqa: BLE001  (told to the command, which reports it)
        _say(f"{ERROR}{type(error).__name__}: {error}")


def _serve() -> None:
    """Answer on a free port of this machine until standard input closes."""
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
        threading.Thread(target=_stop_with_the_command, args=(server,), daemon=True).start()
        with _Errors() as errors:
            asyncio.run(server.serve(sockets=[listening]))
        if not server.started:
            raise ServerError(errors.last or "it stopped as it started")


def _stop_with_the_command(server: object) -> None:
    """Wait for standard input to close, and end the server; what does not end in time is ended."""
    sys.stdin.read()
    server.should_exit = True  # type: ignore[attr-defined]
    threading.Event().wait(2 * GRACE)
    os._exit(0)


class _Errors(logging.Handler):
    """Keeps the last line of the error that the server's application raises as it starts."""

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


if __name__ == "__main__":
    serve_until_closed()
