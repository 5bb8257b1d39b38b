"""Every test has a home folder of its own, and reaches no server and no network."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from dae import backend

backend.configure()  # before Keras, Prefect or MLflow is imported
settings.register_profile("dae", deadline=None, derandomize=True)
settings.load_profile("dae")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder for the length of one test."""
    monkeypatch.setenv("DAE_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path
