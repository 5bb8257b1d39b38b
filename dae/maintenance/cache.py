"""The cached folders: image sets, frozen noise, checkpoints and the drafts of killed processes, and when each was last used."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from dae import storage
from dae.maintenance.inventory import Folder, What

KINDS: dict[str, What] = {"images": "images", "noisy": "noise", "checkpoints": "checkpoint"}
DRAFT = re.compile(r"\..+-.+")


def folders() -> Iterator[Folder]:
    """Yield every folder of the cache; one that vanishes meanwhile is left out."""
    for parent, what in KINDS.items():
        root = storage.cache() / parent
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if found := look(path, what):
                yield found


def look(path: Path, what: What) -> Folder | None:
    """Return what a folder is and holds; None if it is not there, or no folder."""
    if path.is_symlink() or not path.is_dir():
        return None
    name = f"{path.parent.name}/{path.name}"
    if DRAFT.fullmatch(path.name):
        return Folder(what="draft", path=name, used=_last_change(path))
    run_id = path.name if what == "checkpoint" else None
    return Folder(what=what, path=name, used=_last_change(path), digests=_digests(path), run_id=run_id)


def again(folder: Folder) -> Folder | None:
    """Return a folder as it is now; None if it is gone."""
    path = storage.cache() / folder.path
    return look(path, KINDS[path.parent.name])


def size(path: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(_stat(file).st_size for file in path.rglob("*") if file.is_file())


def remove(folder: Folder) -> bool:
    """Remove a folder, unless it was used after it was looked at; tell whether it is gone.

    It is moved aside first: whoever looks for it from then on does not find it, and makes it anew. What was used in the
    moment before is put back.
    """
    path = storage.cache() / folder.path
    aside = path if folder.what == "draft" else path.with_name(f".{path.name}-removed{os.getpid()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    if _last_change(aside) > folder.used:
        aside.rename(path)
        return False
    shutil.rmtree(aside)
    return True


def _last_change(path: Path) -> float:
    """Return when a folder was used, or anything in it was written, last: that of a draft only its files tell."""
    return max(_stat(each).st_mtime for each in (path, *path.rglob("*")))


def _stat(path: Path) -> os.stat_result:
    """Return what is known of a file; nothing but zeros where it vanished meanwhile."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return os.stat_result((0,) * 10)


def _digests(path: Path) -> frozenset[str]:
    """Return the digests a folder goes by; none where its manifest cannot be read, when it is of no use to anyone."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        return frozenset(str(manifest[key]) for key in ("digest", "sha256") if key in manifest)
    except (OSError, ValueError, TypeError):
        return frozenset()
