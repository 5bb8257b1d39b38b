"""What a release keeps on one machine, opened by the next: the runs, the champion and the flow runs are still there."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]
STORES = sorted((ROOT / "tests" / "stores").glob("*.tar.xz"))
PATHS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""Where MLflow's local store holds absolute paths."""

pytestmark = pytest.mark.slow


@pytest.fixture(params=STORES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def old_home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A home of an older release, moved here, which MLflow must be told."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as database:
        query = "SELECT artifact_location FROM experiments WHERE name = 'smoke'"
        (location,) = database.execute(query).fetchone()
        before, now = location.removesuffix("/mlruns/artifacts/smoke"), tmp_path.as_uri()
        for table, column in PATHS.items():
            for old, new in ((before, now), (before.removeprefix("file://"), str(tmp_path))):
                database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new))
        database.commit()
    return tmp_path


def dae(home: Path, *arguments: str) -> str:
    """Run the command there and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {"DAE_HOME": str(home), "HOME": str(home / "user")}
    command = [sys.executable, "-m", "dae.cli", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_runs_versions_and_history_are_there_and_the_champion_restores_files(old_home: Path) -> None:
    runs = {run["name"]: run["verdict"] for run in json.loads(dae(old_home, "runs", "--json"))}
    assert runs["mnist-unet8-2ep-seed0"] == "promoted"
    assert runs["mnist-unet8-1ep-seed0"] == "refused"
    versions = json.loads(dae(old_home, "models", "--name", "dae-smoke", "--json"))
    assert {each["version"]: each["aliases"] for each in versions} == {"1": ["champion"], "2": []}
    history = dae(old_home, "models", "history", "--name", "dae-smoke")
    assert history.count("promoted") == history.count("refused") == 1
    noisy = np.random.default_rng(0).normal(128, 60, (28, 28)).clip(0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(old_home / "noisy.png")
    files = (str(old_home / "noisy.png"), "-o", str(old_home / "clean"))
    dae(old_home, "denoise", *files, "--model", "models:/dae-smoke@champion")
    assert (old_home / "clean" / "noisy.png").is_file()


def test_a_training_goes_on_from_the_old_champion_and_the_old_flow_runs_stay(old_home: Path) -> None:
    small = ("--set", "model.width=8", "--set", "model.deep_width=16", "--set", "train.epochs=3")
    said = dae(old_home, "train", "--config", "configs/smoke.yaml", *small)
    assert "version 3 is the champion" in said
    with closing(sqlite3.connect(old_home / ".dae" / "prefect" / "prefect.db")) as database:
        names = {name for (name,) in database.execute("SELECT name FROM flow_run")}
    assert names == {f"mnist-unet8-{epochs}ep-seed0" for epochs in (1, 2, 3)}
    assert not list((old_home / ".dae" / "prefect").glob("prefect-*.db"))
