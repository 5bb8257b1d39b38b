"""Prefect's temporary server: where its files lie, what becomes of a database of another version, and its errors."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from dae import runtime, storage

ASK = """
import sys
from dae import runtime, storage
runtime.configure(terminal=True)
from flows.deployment import local_server
api_url = local_server.start_server()
try:
    url = api_url()
except local_server.ServerError as error:
    sys.exit(f"error: {error}")
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
    print(*sorted(run.name for run in client.read_flow_runs()))
"""
"""Names the flow runs that the server knows, or says why there is none."""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """The home folder of a user."""
    folder = tmp_path / "user"
    folder.mkdir()
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's own folder for Prefect."""
    folder = tmp_path / "project" / ".dae" / "prefect"
    folder.mkdir(parents=True)
    return folder


def begin(project: Path, user: Path, **variables: str) -> subprocess.Popen[str]:
    """Start a command of the project at `project`, as the user whose home is `user`, in a folder of neither."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DAE_"))}
    environment |= {"HOME": str(user), "DAE_HOME": str(project.parents[1])} | variables
    command = [sys.executable, "-P", "-c", ASK]  # a script has not the working folder on its path either
    return subprocess.Popen(
        command, env=environment, cwd=user.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ask(project: Path, user: Path, **variables: str) -> tuple[str, str]:
    """Return what such a command prints, and what it warns of."""
    printed, warned = begin(project, user, **variables).communicate(timeout=120)
    return printed.strip(), warned.strip()


def make_newer(folder: Path) -> Path:
    """Make a database with a schema that the installed Prefect does not know."""
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "prefect.db")) as database:
        database.execute("PRAGMA journal_mode = WAL")  # as Prefect does
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
        database.commit()
    return folder / "prefect.db"


@pytest.mark.slow
def test_a_newer_database_of_the_project_is_set_aside_and_the_users_is_left_alone(project: Path, user: Path) -> None:
    newer = make_newer(project).read_bytes()
    shared = make_newer(user / ".prefect")
    printed, warned = ask(project, user)
    (kept,) = project.glob("prefect-*.db")
    assert (printed, warned.count("\n")) == ("", 0)
    assert warned.startswith(f"warning: Prefect's database {project / 'prefect.db'} was made by another version")
    assert f"It is kept as {kept}" in warned
    assert kept.read_bytes() == newer
    assert shared.read_bytes() == newer
    assert [path.name for path in user.iterdir()] == [".prefect"]
    assert [path.name for path in shared.parent.iterdir()] == ["prefect.db"]


def test_a_newer_database_that_was_asked_for_is_named_and_left_alone(project: Path, user: Path) -> None:
    newer = make_newer(user / "chosen")
    before = newer.read_bytes()
    printed, warned = ask(project, user, PREFECT_HOME=str(newer.parent))
    assert (printed, warned.count("\n"), newer.read_bytes()) == ("", 0, before)
    assert warned.startswith(
        f"error: Prefect's temporary server did not start: DatabaseError: Prefect's database {newer} "
    )
    assert "Can't locate revision identified by 'ffffffffffff'. Use that version, or " in warned


def test_a_newer_database_at_which_a_server_works_is_not_moved(project: Path, user: Path) -> None:
    before = make_newer(project).read_bytes()
    with (project / ".serving").open("w") as serving:
        fcntl.flock(serving, fcntl.LOCK_SH)  # as every server of the project does
        printed, warned = ask(project, user)
    assert (printed, (project / "prefect.db").read_bytes()) == ("", before)
    assert warned.endswith("and a command of that version is at work on it. Wait for it to end")


def test_what_is_no_database_is_told_at_once_with_its_own_error(project: Path, user: Path) -> None:
    (project / "prefect.db").write_text("not a database, but a text that is long enough")
    printed, warned = ask(project, user)
    assert (printed, warned.count("\n")) == ("", 0)
    assert f"Prefect's database {project / 'prefect.db'} cannot be used: " in warned
    assert warned.endswith("file is not a database")
    assert (project / "prefect.db").read_text().startswith("not a database")


def test_a_server_that_ends_without_a_word_is_told_with_what_it_wrote_last(project: Path, user: Path) -> None:
    (user / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'flows.deployment.local_server' in sys.orig_argv:\n"
        "    print('out of memory', file=sys.stderr, flush=True)\n"
        "    os._exit(9)\n"
    )
    printed, warned = ask(project, user, PYTHONPATH=str(user))
    assert (printed, warned) == ("", "error: Prefect's temporary server did not start: exit code 9 out of memory")


@pytest.mark.parametrize("error", [RuntimeError("no home"), PermissionError("not yours")])
def test_a_users_home_that_is_unknown_or_cannot_be_read_is_done_without(
    monkeypatch: pytest.MonkeyPatch, home: Path, error: Exception
) -> None:
    def fail(_: Path) -> bool:
        raise error

    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.setattr(storage, "project_home", lambda: home)
    monkeypatch.setattr(Path, "expanduser" if isinstance(error, RuntimeError) else "is_file", fail)
    assert runtime._prefect_settings() == {"PREFECT_HOME": str(home / ".dae" / "prefect")}


@pytest.mark.slow
def test_a_project_that_cannot_be_written_is_named(user: Path) -> None:
    (user / "file").touch()
    printed, warned = ask(user / "file" / ".dae" / "prefect", user)
    assert (printed, warned.count("\n")) == ("", 0)
    assert str(user / "file" / ".dae" / "prefect") in warned


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
@pytest.mark.parametrize("where", ["user", "project"])
def test_a_full_file_system_stops_a_command_only_where_the_project_lies(where: str, project: Path, user: Path) -> None:
    folder = {"user": user, "project": project}[where]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], check=True)
    try:
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(1024))
        printed, warned = ask(project, user)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
    assert printed == ""
    assert ("full" in warned) == (where == "project"), warned


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_the_home_of_a_user_need_not_be_writable(project: Path, user: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", user], check=True)
    try:
        assert ask(project, user) == ("", "")
    finally:
        subprocess.run(["umount", "--lazy", user], check=True)


@pytest.mark.slow
def test_two_first_commands_at_once_both_have_a_server(project: Path, user: Path) -> None:
    both = [begin(project, user) for _ in range(2)]
    assert [process.communicate(timeout=120) for process in both] == [("\n", "")] * 2


@pytest.mark.slow
def test_a_package_of_the_same_name_where_the_command_is_called_is_no_trouble(project: Path, user: Path) -> None:
    (user.parent / "flows").mkdir()
    (user.parent / "flows" / "__init__.py").write_text("raise SystemExit(1)")
    assert ask(project, user) == ("", "")


@pytest.mark.slow
def test_two_checkouts_of_different_versions_at_once(project: Path, user: Path, tmp_path: Path) -> None:
    """One of them has the database of a version that the other does not know, and neither sees the other's."""
    newer = tmp_path / "newer" / ".dae" / "prefect"
    make_newer(newer)
    first, second = begin(project, user), begin(newer, user)
    assert first.communicate(timeout=120) == ("\n", "")
    assert "was made by another version" in second.communicate(timeout=120)[1]
    assert not list(project.glob("prefect-*.db"))


@pytest.mark.slow
def test_a_server_that_the_users_own_profile_names_is_used(project: Path, user: Path) -> None:
    (user / ".prefect").mkdir()
    profile = 'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    (user / ".prefect" / "profiles.toml").write_text(profile)
    _, warned = ask(project, user)
    assert "http://127.0.0.1:9" in warned or "Connect" in warned
    assert not (project / "prefect.db").exists()
