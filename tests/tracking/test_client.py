from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import mlflow
import pytest

from dae.config import loading
from dae.config.schema import PipelineConfig
from dae.promotion import registry, tables
from dae.tracking import runs
from dae.tracking.client import FLOW_RUN, TrackingError, connect, experiment_id
from dae.tracking.run_logging import log_epoch
from dae.tracking.runs import open_run
from flows.train import train_denoiser

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
TINY = ["data.limit=300", "data.validation=60", "data.test_limit=60", "train.epochs=1", "model.width=8"]


@pytest.fixture
def mlflow_server(
    home: Path, unused_port: int, wait_for_http: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A real MLflow server, in a process of its own, that keeps the artifacts."""
    url = f"http://127.0.0.1:{unused_port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(unused_port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home}/server.db", "--artifacts-destination", str(home / "served")]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        wait_for_http(f"{url}/health")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        yield url
        server.terminate()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_flow_records_and_registers_on_an_mlflow_server(mlflow_server: str, home: Path) -> None:
    result = train_denoiser(loading.load(SMOKE, TINY))
    assert registry.find_champion("dae-smoke") == result.version.version == "1"
    assert mlflow.get_tracking_uri() == mlflow_server
    (record,) = tables.as_records(tables.read_runs("smoke"))
    assert (record["run_id"], record["status"], record["model_version"]) == (result.run_id, "FINISHED", "1")
    assert list((home / "served").rglob("model.keras"))
    assert not (home / "mlruns").exists()


@pytest.mark.slow
def test_a_new_store_can_be_made_by_several_processes_at_once(home: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        ids = set(pool.map(_new_run, [str(home)] * 2))
    assert len(ids) == 2
    assert len(tables.read_runs()) == 2


def _new_run(home: str) -> str:
    os.environ["DAE_HOME"] = home
    with open_run(PipelineConfig(), "none") as run_id:
        return run_id


@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_the_final_state_of_a_run_tells_how_it_ended(error: type[BaseException] | None, status: str) -> None:
    expected = pytest.raises(error) if error else nullcontext()
    with expected, open_run(PipelineConfig(), "none") as run_id:
        if error:
            raise error("why")
    run = connect().get_run(run_id)
    assert run.info.status == status
    assert run.data.tags.get("error") == ("ValueError: why" if status == "FAILED" else None)


@pytest.mark.usefixtures("mlflow_store")
def test_a_run_whose_process_lives_is_not_resumed() -> None:
    with open_run(PipelineConfig(), "none") as run_id:
        again = loading.load(settings=[f"tracking.resume={run_id}"])
        with (
            pytest.raises(TrackingError, match="is RUNNING, and its process lives"),
            open_run(again, "two"),
        ):
            pass
        assert connect().get_run(run_id).data.tags[FLOW_RUN] == "none"


@pytest.mark.usefixtures("mlflow_store")
def test_an_epoch_is_logged_once_at_its_own_step() -> None:
    with open_run(PipelineConfig(), "none") as run_id:
        for epoch, value in ((0, 0.5), (0, 0.4), (1, 0.3)):
            log_epoch(run_id, epoch, {"val_mse": value})
    points = connect().get_metric_history(run_id, "val_mse")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (2, 0.3)]


@pytest.mark.usefixtures("mlflow_store")
def test_the_artifacts_of_a_local_store_lie_beside_it(home: Path) -> None:
    with open_run(PipelineConfig(), "none") as run_id:
        pass
    assert len(list((home / "mlruns" / "artifacts" / "denoising").glob(f"{run_id}/artifacts/config.yaml"))) == 1


@pytest.mark.usefixtures("mlflow_store")
def test_a_run_without_a_configuration_cannot_be_resumed() -> None:
    client = connect()
    run_id = client.create_run(experiment_id(client, "other")).info.run_id
    with pytest.raises(TrackingError, match=r"holds no config\.yaml"):
        runs.read_config(run_id)
