from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from dae import store


def test_home_is_the_folder_the_environment_names(home: Path) -> None:
    assert store.home() == home.resolve()
    assert store.cache() == home.resolve() / ".dae"


def test_home_is_the_checkout_where_nothing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DAE_HOME")
    monkeypatch.chdir(tmp_path)
    assert store.home() == Path(__file__).resolve().parents[1]


def test_home_of_an_installed_package_is_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DAE_HOME")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "__file__", str(tmp_path / "site-packages" / "dae" / "store.py"))
    assert store.home() == tmp_path


def test_asking_where_things_lie_makes_no_folder(home: Path) -> None:
    store.cache()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, store.CHUNK, store.CHUNK + 1])
def test_a_files_digest_is_the_sha256_of_its_bytes(tmp_path: Path, size: int) -> None:
    content = np.arange(size, dtype=np.uint8).tobytes()
    (tmp_path / "a").write_bytes(content)
    assert store.file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("count", [0, 1, store.CHUNK // 24 + 1])
def test_the_digest_of_an_array_file_covers_every_byte_of_its_elements(tmp_path: Path, count: int) -> None:
    array = np.random.default_rng(count).random((count, 3, 2), dtype=np.float32)
    np.save(tmp_path / "a.npy", array)
    found = store.npy_sha256(tmp_path / "a.npy")
    assert found == hashlib.sha256(array.tobytes()).hexdigest()
    for place in [(0, 0, 0), (-1, 2, 1)] if count else []:
        changed = array.copy()
        changed[place] += 1
        np.save(tmp_path / "b.npy", changed)
        assert store.npy_sha256(tmp_path / "b.npy") != found


def test_several_array_files_have_one_digest_in_their_order(tmp_path: Path) -> None:
    one, two = np.arange(6, dtype=np.uint8), np.arange(4, dtype=np.float64)
    np.save(tmp_path / "a.npy", one)
    np.save(tmp_path / "b.npy", two)
    expected = hashlib.sha256(one.tobytes() + two.tobytes()).hexdigest()
    assert store.npy_sha256(tmp_path / "a.npy", tmp_path / "b.npy") == expected


def test_a_file_that_is_no_array_has_no_digest(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"not an array")
    with pytest.raises(ValueError, match="magic"):
        store.npy_sha256(tmp_path / "a.npy")


def test_a_published_folder_appears_whole_and_at_once(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with store.publish(target) as draft:
        (draft / "a").write_text("a")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a"]
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_publishing_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with store.publish(tmp_path / "target") as draft:
            (draft / "a").write_text("a")
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_published_meanwhile_by_another_process_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with store.publish(target) as late:
        (late / "a").write_text("late")
        with store.publish(target) as early:
            (early / "a").write_text("early")
    assert (target / "a").read_text() == "early"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_in_the_place_of_the_folder_is_an_error_and_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    with pytest.raises(OSError, match="target"), store.publish(target):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert target.read_text() == "mine"


def test_text_replaces_what_was_there_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    for text in ("first, and longer", "größer"):
        store.write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_discarding_deletes_one_folder_of_the_cache_and_need_not_find_it(home: Path) -> None:
    for name in ("a", "b"):
        store.write_text(store.cache() / "sets" / name / "file", "text")
    store.discard("sets", "a")
    store.discard("sets", "absent")
    assert [path.name for path in (home / ".dae" / "sets").iterdir()] == ["b"]
