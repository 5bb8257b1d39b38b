"""Every test has a home folder of its own, and reaches no server but those it starts."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import event
from sqlalchemy.engine import Engine

from dae import runtime
from dae.config.schema import GateConfig, ModelConfig, PipelineConfig, TrackingConfig
from dae.promotion import gate
from dae.promotion.schemas import Candidate, Decision, GateInputs, ModelVersion, PipelineResult
from dae.schemas import CleanInput, ImageSet, NoisySet, NoisySets, Quality, Scores, SplitScores, TrainedModel

prefect_home = tempfile.TemporaryDirectory(prefix="dae-prefect-")  # not the project's own; it goes with the process
os.environ["PREFECT_HOME"] = prefect_home.name
# Several processes share the cores: threads that wait for work beside them only take time from them.
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(threads, "1")
runtime.configure()  # before Keras, Prefect or MLflow is imported
# A shell's job in the background ignores an interruption, and so would the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("dae", deadline=None, derandomize=True)
settings.load_profile("dae")

LEFT_ALONE = CleanInput(images=0.0, borders=0.0, constants=0.0, bars=0.0, own_output=0.0)
TESTS = Path(__file__).parent
SLOW_ALONE = ("cli/test_models.py", "maintenance/test_reproduce.py", "tracking/test_client.py")
"""Files of whose tests only slow ones need a Prefect server."""
SERVED = {
    path.relative_to(TESTS).as_posix()
    for path in TESTS.rglob("test_*.py")
    if any(fixture in path.read_text("utf-8") for fixture in ("prefect_server", "trained: tuple"))
}
SERVED -= {*SLOW_ALONE}
LONGEST = (
    "prefect",
    "promotion/test_promote.py",
    "monitoring/test_staleness.py",
    "training/test_fit.py",
    "maintenance/test_reproduce.py",
    "promotion/test_smoke_test.py",
    "promotion/test_evidence.py",
    "maintenance/test_retention.py",
)


@event.listens_for(Engine, "connect")
def do_not_wait_for_the_disk(connection: Any, _: object) -> None:
    """No store of a test outlives the machine, so SQLite need not wait until what it wrote is safe from a power cut."""
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA synchronous = OFF")


def unit_of(nodeid: str) -> str:
    """Return what one worker does as a whole: a file, or all the files that need a Prefect server, so that one starts."""
    name = nodeid.partition("::")[0].removeprefix("tests/")
    return "prefect" if name in SERVED else name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the work, put what takes long first: left to the end, one would wait for the other."""
    if hasattr(config, "workerinput"):
        ranks = {name: rank for rank, name in enumerate(LONGEST)}
        items.sort(key=lambda item: ranks.get(unit_of(item.nodeid), len(ranks)))


def pytest_collection_finish() -> None:
    """Leave what was imported, which stays, out of every garbage collection to come."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Share the work out by `unit_of`, in the order of the tests."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    config.option.loadscopereorder = False
    scheduling = LoadFileScheduling(config, log)
    scheduling._split_scope = unit_of
    return scheduling


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
    from prefect.settings import (
        PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    random.seed()  # it picks a port: processes of the same seed would pick the same one
    # Reading the certificates takes 20 ms a client, and the thread of the heartbeats ends up to a second late.
    quick = {PREFECT_API_TLS_INSECURE_SKIP_VERIFY: True, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings(quick),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))  # for processes that tests start
        yield


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: migrating one takes seconds, copying it does not."""
    from dae.tracking.client import connect

    folder = tmp_path_factory.mktemp("migrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect()
    return folder / "mlruns" / "mlflow.db"


@pytest.fixture
def mlflow_store(home: Path, migrated: Path) -> Path:
    """A new SQLite store in the test's home."""
    (home / "mlruns").mkdir()
    return Path(shutil.copy(migrated, home / "mlruns" / "mlflow.db"))


@pytest.fixture(scope="session")
def logged_once(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedModel]:
    """A database with one untrained model in it, and that model; its files stay where they are."""
    import numpy as np

    from dae.networks import build
    from dae.tracking import log_model
    from dae.tracking.runs import open_run

    folder = tmp_path_factory.mktemp("logged")
    (folder / "mlruns").mkdir()
    shutil.copy(migrated, folder / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with open_run(PipelineConfig(), "none") as run_id:
            network = build.build_network(ModelConfig(width=4, deep_width=4), (8, 8, 1))
            example = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
            model_id, uri = log_model.log_model(run_id, network, example, "dae")
    return folder / "mlruns" / "mlflow.db", TrainedModel(
        run_id=run_id,
        model_id=model_id,
        model_uri=uri,
        epochs=1,
        best_epoch=1,
        best_val_mse=0.1,
        parameters=1,
        seconds=1,
    )


@pytest.fixture
def register_version(logged_once: tuple[Path, TrainedModel], mlflow_store: Path) -> Callable[..., Candidate]:
    """A function that registers versions of one untrained model, with the scores it is told, in a new store."""
    from dae.promotion import registry

    database, trained = logged_once
    shutil.copy(database, mlflow_store)
    clean = ImageSet(path="clean.npy", sha256="c" * 64, count=2, height=8, width=8, channels=1)
    drawn = NoisySet(clean=clean, path="noisy.npy", kinds_path="kinds.npy", kinds=("gaussian",), sha256="n" * 64)

    def register(
        name: str = "dae", mse: float = 0.001, scored: str | None = None, *, dry_run: bool = False
    ) -> Candidate:
        quality = Quality(mse=mse, psnr=30.0, ssim=0.9, count=2)
        kinds = {"gaussian": quality}
        split = SplitScores(pooled=quality, pooled_nothing=quality, per_kind=kinds, per_kind_nothing=kinds)
        scores = Scores(
            model_uri=scored or trained.model_uri,
            validation=split,
            test=split,
            images_per_second=1.0,
            clean_input=LEFT_ALONE,
        )
        config = PipelineConfig(tracking=TrackingConfig(model_name=name), gate=GateConfig(dry_run=dry_run))
        sets = NoisySets(train=None, validation=drawn, test=drawn)
        return registry.register(config, trained, scores, "d" * 64, sets)

    return register


TINY = ("data.limit=300", "data.validation=60", "data.test_limit=120", "model.width=8")
Commands = tuple[tuple[PipelineConfig, int, str], ...]


@pytest.fixture(scope="session")
def trained(prefect_server: None, migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Commands]:
    """A home in which ``dae train`` was run three times, and of each run its configuration, its exit code and its output.

    Promoted, refused, promoted: the third is of the same recipe as the first, so it is as good; the second is not, by any
    measure. Its verdict is also in ``summary.md`` and ``junit.xml``. Tests read all this; one that writes copies the database.
    """
    from typer.testing import CliRunner

    from dae.cli import app
    from dae.config import loading

    home, smoke = tmp_path_factory.mktemp("trained"), Path(__file__).parents[1] / "configs" / "smoke.yaml"
    (home / "mlruns").mkdir()
    shutil.copy(migrated, home / "mlruns" / "mlflow.db")
    told = ["--summary", str(home / "summary.md"), "--junit", str(home / "junit.xml")]
    asked: tuple[tuple[tuple[str, ...], list[str]], ...] = (
        ((*TINY, "train.epochs=2"), []),
        ((*TINY, "train.epochs=1", "gate.smoke_test=null", "gate.max_val_mse=0.000001"), told),
        ((*TINY, "train.epochs=2", "gate.smoke_test=null"), []),
    )
    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for settings_, more in asked:
            options = [part for value in settings_ for part in ("--set", value)]
            result = CliRunner().invoke(app, ["train", "--config", str(smoke), *options, *more])
            assert result.exit_code in (0, 10), result.output
            done.append((loading.load(smoke, settings_), result.exit_code, result.stdout))
    return home, tuple(done)


@pytest.fixture
def make_result() -> Callable[..., PipelineResult]:
    """A function that makes what a training run ends with: the gate's verdict on the MSE it is told."""

    def make(run_id: str = "0" * 32, mse: float = 0.002, **decided: Any) -> PipelineResult:
        quality = Quality(mse=mse, psnr=27.0, ssim=0.9, count=100)
        kinds = {"poisson": quality}
        nothing = Quality(mse=0.04, psnr=14.0, ssim=0.4, count=100)
        split = SplitScores(
            pooled=quality, pooled_nothing=nothing, per_kind=kinds, per_kind_nothing={"poisson": nothing}
        )
        scores = Scores(
            model_uri="models:/m-1", validation=split, test=split, images_per_second=1.0, clean_input=LEFT_ALONE
        )
        verdict = gate.evaluate_gate(GateInputs(scores=scores), GateConfig(smoke_test=None, champion=None))
        decision = Decision.model_validate({"event": verdict.word, "verdict": verdict, "who": "ada"} | decided)
        model = {"run_id": run_id, "model_id": "m-1", "model_uri": "models:/m-1", "epochs": 1, "best_epoch": 1}
        figures = {"best_val_mse": 0.1, "parameters": 1, "seconds": 1.0}
        return PipelineResult(
            run_id=run_id,
            run_name="mnist-unet16",
            model=TrainedModel.model_validate(model | figures),
            scores=scores,
            version=ModelVersion(name="dae", version="7", model_uri="models:/m-1", decision=decision, aliases=()),
            seconds={"train": 1.0},
        )

    return make


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


@pytest.fixture
def answering() -> Iterator[Callable[[int], int]]:
    """A function that starts a web server, which answers everything with one status, and returns its port."""
    servers: list[HTTPServer] = []

    def start(status: int) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
