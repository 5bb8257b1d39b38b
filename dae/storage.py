"""Locations on disk, and atomic writes: files and folders get their final name by one rename, once they are complete."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1 << 22
MODEL, REFERENCE = "data/model.keras", "reference.npz"
"""Files in a stored model's folder: the network, and noisy images with the network's outputs from when it was logged."""
PACKAGE_ROOT = Path(__file__).resolve().parents[1]
"""The folder that contains the package; in a checkout, the root of the repository."""


def project_home() -> Path:
    """Return the folder that holds ``mlruns/`` and ``.dae/``.

    ``$DAE_HOME`` if set; else the checkout the package runs from; else, for an installed wheel, the working directory.
    """
    if folder := os.environ.get("DAE_HOME"):
        return Path(folder).expanduser().resolve()
    return PACKAGE_ROOT if (PACKAGE_ROOT / "pyproject.toml").is_file() else Path.cwd()


def resolve_path(path: str) -> Path:
    """Return the path a configuration names; a relative one starts at the project's folder."""
    return project_home() / Path(path).expanduser()


def cache_folder() -> Path:
    """Return the folder of files that can be made again: Prefect's files, checkpoints, image sets and noisy sets."""
    return project_home() / ".dae"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def touch_if_exists(folder: Path) -> bool:
    """Return whether a stored folder exists, and set its modification time, which records its last use."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    except OSError:  # it belongs to another user, or is read-only
        return folder.is_dir()
    return True


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that is renamed to `target` when the block succeeds, and is removed when it fails.

    If another process has created `target` meanwhile, that folder is kept, since its content is the same.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Yield a temporary folder in the cache, which is removed when the block ends.

    It is named like a draft, so that ``dae gc`` removes it if this process is killed.
    """
    parent = cache_folder() / "noisy"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent) as folder:
        yield Path(folder)


@contextmanager
def atomic_write(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield the path of a draft that is renamed to `path` when the block succeeds, and is removed when it fails.

    Drafts of the same file from killed processes of this machine are removed. The length of the draft's name does not depend
    on the file's name.

    Raises
    ------
    FileExistsError
        If `overwrite` is False and `path` exists when the block ends, even as a dangling link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{hashlib.sha256(os.fsencode(f'{platform.node()}/{path.name}')).hexdigest()[:12]}-"
    for former in path.parent.glob(f"{prefix}*.draft"):
        if not _is_running(former.name.removeprefix(prefix).removesuffix(".draft")):
            former.unlink(missing_ok=True)
    draft = path.with_name(f"{prefix}{os.getpid()}.draft")
    try:
        yield draft
        if overwrite:
            draft.replace(path)
        else:
            _place(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _is_running(pid: str) -> bool:
    import psutil

    return pid.isdecimal() and psutil.pid_exists(int(pid))


def _place(draft: Path, path: Path) -> None:
    """Rename a draft unless `path` exists. Without hard links, an empty file reserves the name first."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:
        path.open("xb").close()
        draft.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: readers see either the old text or the new one."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def delete_cached(*parts: str) -> None:
    """Delete a folder of the cache, if it exists."""
    shutil.rmtree(cache_folder().joinpath(*parts), ignore_errors=True)
