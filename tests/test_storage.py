from __future__ import annotations

import hashlib
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from dae import storage


def test_home_is_the_folder_the_environment_names(home: Path) -> None:
    assert storage.project_home() == home.resolve()
    assert storage.cache_folder() == home.resolve() / ".dae"


def test_home_is_the_checkout_where_nothing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DAE_HOME")
    monkeypatch.chdir(tmp_path)
    assert storage.project_home() == Path(__file__).resolve().parents[1]


def test_home_of_an_installed_package_is_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DAE_HOME")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "PACKAGE_ROOT", tmp_path / "site-packages")
    assert storage.project_home() == tmp_path


def test_asking_where_things_lie_makes_no_folder(home: Path) -> None:
    storage.cache_folder()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, storage.CHUNK, storage.CHUNK + 1])
def test_a_files_digest_is_the_sha256_of_its_bytes(tmp_path: Path, size: int) -> None:
    content = np.arange(size, dtype=np.uint8).tobytes()
    (tmp_path / "a").write_bytes(content)
    assert storage.file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_published_folder_appears_whole_and_at_once(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with storage.atomic_folder(target) as draft:
        (draft / "a").write_text("a")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a"]
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_publishing_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with storage.atomic_folder(tmp_path / "target") as draft:
            (draft / "a").write_text("a")
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_published_meanwhile_by_another_process_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with storage.atomic_folder(target) as late:
        (late / "a").write_text("late")
        with storage.atomic_folder(target) as early:
            (early / "a").write_text("early")
    assert (target / "a").read_text() == "early"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_in_the_place_of_the_folder_is_an_error_and_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    with pytest.raises(OSError, match="target"), storage.atomic_folder(target):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert target.read_text() == "mine"


def test_text_replaces_what_was_there_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    for text in ("first, and longer", "größer"):
        storage.write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_what_came_to_be_there_meanwhile_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def overtaken() -> None:
        with storage.atomic_write(path, overwrite=False) as draft:
            draft.write_text("late")
            path.write_text("early")

    with pytest.raises(FileExistsError):
        overtaken()
    assert path.read_text() == "early"
    with storage.atomic_write(path) as draft:
        draft.write_text("late")
    assert path.read_text() == "late"
    link = tmp_path / "link"
    link.symlink_to("gone")
    with pytest.raises(FileExistsError), storage.atomic_write(link, overwrite=False) as draft:
        draft.write_text("late")
    assert sorted(tmp_path.iterdir()) == [path, link]
    assert not link.exists()


@pytest.mark.parametrize("there", [False, True])
def test_without_hard_links_nothing_is_replaced_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def unsupported(self: Path, target: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", unsupported)
    path = tmp_path / "a"
    if there:
        path.write_text("early")
    with (
        pytest.raises(FileExistsError) if there else nullcontext(),
        storage.atomic_write(path, overwrite=False) as draft,
    ):
        draft.write_text("late")
    assert path.read_text() == ("early" if there else "late")
    assert list(tmp_path.iterdir()) == [path]


def test_the_drafts_of_killed_processes_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    program = (
        "import os, sys; from pathlib import Path; from dae import storage\n"
        "for name in sys.argv[1:]:\n"
        "    draft = storage.atomic_write(Path(name)).__enter__()\n"
        "    draft.write_text('half')\n"
        "print(flush=True); sys.stdin.read() or os._exit(9)\n"
    )
    command = [sys.executable, "-c", program, str(path), str(other)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        left = set(tmp_path.iterdir())
        assert len(left) == 2
        storage.write_text(path, "whole")
        assert set(tmp_path.iterdir()) == {*left, path}
        process.kill()
    storage.write_text(path, "whole")
    assert len(set(tmp_path.iterdir()) & left) == 1  # the other file's


def test_a_name_of_any_length_can_be_drafted(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127 + "a")
    storage.write_text(path, "text")
    assert list(tmp_path.iterdir()) == [path]


def test_discarding_deletes_one_folder_of_the_cache_and_need_not_find_it(home: Path) -> None:
    for name in ("a", "b"):
        storage.write_text(storage.cache_folder() / "sets" / name / "file", "text")
    storage.delete_cached("sets", "a")
    storage.delete_cached("sets", "absent")
    assert [path.name for path in (home / ".dae" / "sets").iterdir()] == ["b"]
