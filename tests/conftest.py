"""Every test has a home folder of its own, and reaches no server but those it starts."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server with a new database, for all the flows of the session."""
    # Its import sets up logging anew, and TensorFlow's handler then closes any stream but the standard error of that moment:
    # inside a CliRunner that would be pytest's own.
    import prefect.main  # noqa: F401
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))  # for processes that tests start
        yield


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: migrating one takes seconds, copying it does not."""
    from dae import tracking

    folder = tmp_path_factory.mktemp("migrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.connect()
    return folder / "mlruns" / "mlflow.db"


@pytest.fixture
def mlflow_store(home: Path, migrated: Path) -> Path:
    """A new SQLite store in the test's home."""
    (home / "mlruns").mkdir()
    return Path(shutil.copy(migrated, home / "mlruns" / "mlflow.db"))


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def wait_for_http() -> Callable[[str], str]:
    """A function that reads a page as soon as its server answers."""
    import urllib3

    def read(url: str) -> str:
        retries = urllib3.Retry(total=30, backoff_factor=0.5, backoff_max=3, status_forcelist=[502, 503])
        return urllib3.PoolManager().request("GET", url, retries=retries).data.decode()

    return read
