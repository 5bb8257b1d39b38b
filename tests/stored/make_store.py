"""Make ``store.tar.xz``: what the code of an earlier commit stored, which the present code must still open.

Run ``python tests/stored/make_store.py [COMMIT]`` from a checkout. It takes about two minutes. The script

1. checks the commit out into a temporary git worktree,
2. trains three very small models with that commit's code and this interpreter's packages: the first is promoted, the second is
   refused and has a folder of additional images, the third is promoted although the gate refuses it,
3. writes the deployments of that commit's ``prefect.yaml`` to ``deployments.json``, with their parameters and the schemas of
   their parameters, as a Prefect server stores them,
4. removes the pictures, and packs ``mlruns/`` and ``deployments.json``.

Paths in the database start with the folder ``DAE_HOME`` of that moment, which is stored in ``home.txt``. Whoever unpacks the
archive replaces that prefix.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

COMMIT = "b5659c4"
ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = Path(__file__).with_name("store.tar.xz")
TINY = (
    "data.limit=600",
    "data.validation=200",
    "data.test_limit=200",
    "model.width=4",
    "model.deep_width=4",
    "train.epochs=1",
    "train.steps_per_epoch=5",
    "gate.clean_input=null",
    "gate.beat_nothing=false",
    "tracking.experiment=former",
    "tracking.model_name=dae",
)
RUNS = (
    ((*TINY, "gate.max_val_mse=1"), 0),
    ((*TINY, "gate.max_val_mse=0.000001", "data.also=more", "gate.works=null"), 10),
    ((*TINY, "gate.max_val_mse=0.000001", "gate.force=a reason", "train.seed=1"), 0),
)
"""The settings of each run, and the exit code of ``dae train``."""
DEPLOYMENTS = """
import json, sys
from pathlib import Path
from dae import backend
backend.configure()
from flows import wanted
trees = [deployment.model_dump(mode="json") for deployment in wanted.deployments(Path("prefect.yaml"))]
Path(sys.argv[1]).write_text(json.dumps(trees, indent=1))
"""
INHERITED = ("PREFECT_", "MLFLOW_", "DAE_")


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Yield a temporary worktree of a commit."""
    with tempfile.TemporaryDirectory(prefix="dae-commit-") as folder:
        tree = Path(folder) / "checkout"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def environment(tree: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which `tree` is imported, without settings of the caller's own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)}
    return inherited | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"} | variables


def train(tree: Path, home: Path) -> None:
    """Make the runs, one after the other."""
    (home / "more").mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (8, 28, 28), np.uint8)):
        Image.fromarray(image).save(home / "more" / f"{number}.png")
    for settings, exit_code in RUNS:
        command = [sys.executable, "-m", "dae.cli", "train", "--config", "configs/smoke.yaml"]
        options = [part for setting in settings for part in ("--set", setting)]
        process = subprocess.run([*command, *options], cwd=tree, env=environment(tree, DAE_HOME=str(home)), check=False)
        if process.returncode != exit_code:
            raise SystemExit(f"dae train must end with exit code {exit_code}, received {process.returncode}")


def remove_pictures(mlruns: Path) -> None:
    """Remove the pictures, which are most of the size and which no code reads back, and make the database small."""
    for picture in (*mlruns.rglob("*.png"), *mlruns.rglob("*.jpg"), *mlruns.rglob("*.lock")):
        picture.unlink()
    for cache in mlruns.rglob("__pycache__"):
        shutil.rmtree(cache)
    with closing(sqlite3.connect(mlruns / "mlflow.db")) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("VACUUM")


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def main() -> None:
    commit = sys.argv[1] if len(sys.argv) > 1 else COMMIT
    with tempfile.TemporaryDirectory(prefix="dae-home-") as folder, checked_out(commit) as tree:
        home = Path(folder).resolve()
        train(tree, home)
        script = [sys.executable, "-c", DEPLOYMENTS, str(home / "deployments.json")]
        subprocess.run(script, cwd=tree, env=environment(tree, PREFECT_HOME=str(home / ".prefect")), check=True)
        remove_pictures(home / "mlruns")
        (home / "home.txt").write_text(str(home))
        with tarfile.open(ARCHIVE, "w:xz") as archive:
            for name in ("home.txt", "deployments.json", "mlruns"):
                archive.add(home / name, name, filter=anonymous)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
