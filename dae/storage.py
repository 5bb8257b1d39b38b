"""Where things lie on disk, and how they get there whole: content-addressed folders, published by one rename."""

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
"""In a stored model's folder: the network, and noisy images with what it made of them when it was logged."""


PACKAGE_ROOT = Path(__file__).resolve().parents[1]
"""The folder the package lies in: that of the repository, in a checkout."""


def project_home() -> Path:
    """Return the folder that holds ``mlruns/`` and ``.dae/``.

    ``$DAE_HOME`` if set; else the checkout the package runs from; else, for an installed wheel, the working directory.
    """
    if chosen := os.environ.get("DAE_HOME"):
        return Path(chosen).expanduser().resolve()
    return PACKAGE_ROOT if (PACKAGE_ROOT / "pyproject.toml").is_file() else Path.cwd()


def resolve_path(path: str) -> Path:
    """Return a path that was given in a configuration; relative ones start at the project's folder."""
    return project_home() / Path(path).expanduser()


def cache_folder() -> Path:
    """Return the folder of Prefect's files and checkpoints, and of image and noisy sets, which can be made again."""
    return project_home() / ".dae"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def touch_if_exists(folder: Path) -> bool:
    """Tell whether a stored folder is there, and note that it is used now: its modification time is that of its last use."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    except OSError:  # another user's, or one that cannot be written
        return folder.is_dir()
    return True


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` by one rename when the block ends well, and vanishes when it does not.

    If another process published `target` meanwhile, its folder is kept: the content is the same.
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
    """Yield a folder of the cache for what is not kept; it is gone when the block ends, however it does.

    It is called like a draft, which ``dae gc`` removes if this process is killed.
    """
    parent = cache_folder() / "noisy"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent) as folder:
        yield Path(folder)


@contextmanager
def atomic_write(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield the path of a draft that becomes `path` when the block ends well, and vanishes when it does not.

    Drafts of the same file that killed processes of this machine left are removed. The draft's name is short, and does not
    depend on the length of the file's.

    Raises
    ------
    FileExistsError
        If something is at `path` in the end, be it a link to nothing, and `overwrite` is not given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{hashlib.sha256(os.fsencode(f'{platform.node()}/{path.name}')).hexdigest()[:12]}-"
    for left in path.parent.glob(f"{prefix}*.draft"):
        if not _is_running(left.name.removeprefix(prefix).removesuffix(".draft")):
            left.unlink(missing_ok=True)
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
    """Give a draft its name unless something has it; where there are no hard links, an empty file claims it first."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:
        path.open("xb").close()
        draft.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: readers see the old text or the new one."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def delete_cached(*parts: str) -> None:
    """Delete a folder of the cache, if it is there."""
    shutil.rmtree(cache_folder().joinpath(*parts), ignore_errors=True)
