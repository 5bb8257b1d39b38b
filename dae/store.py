"""Where things lie on disk, and how they get there whole: content-addressed folders, published by one rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

CHUNK = 1 << 22


def home() -> Path:
    """Return the folder that holds ``mlruns/`` and ``.dae/``.

    ``$DAE_HOME`` if set; else the checkout the package runs from; else, for an installed wheel, the working directory.
    """
    if chosen := os.environ.get("DAE_HOME"):
        return Path(chosen).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def cache() -> Path:
    """Return the folder of image sets, noisy sets and checkpoints; checkpoints apart, everything in it can be made again."""
    return home() / ".dae"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def npy_sha256(*paths: Path | str) -> str:
    """Return the SHA-256 over every byte of the elements in ``.npy`` files, one after the other, read in chunks.

    Nothing is mapped: pages of a mapped file count as memory of the process.

    Raises
    ------
    ValueError
        If a file is no ``.npy`` file.
    """
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def publish(target: Path) -> Iterator[Path]:
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
def drafted(path: Path) -> Iterator[Path]:
    """Yield the path of a draft that becomes `path` when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: readers see the old text or the new one."""
    with drafted(path) as draft:
        draft.write_text(text, encoding="utf-8")


def discard(*parts: str) -> None:
    """Delete a folder of the cache, if it is there."""
    shutil.rmtree(cache().joinpath(*parts), ignore_errors=True)
