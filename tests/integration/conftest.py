"""A team's servers from nothing, and a project beside them: everything is real, and nothing of it lies in the checkout."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import psutil
import pytest
import yaml
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from dae.services import supervision

Found = TypeVar("Found")
ROOT = Path(__file__).parents[2]
SMALL = {
    "data": {"limit": 1200, "validation": 300, "test_limit": 300},
    "model": {"width": 8, "deep_width": 16},
    "train": {"epochs": 3, "batch_size": 32, "steps_per_epoch": None},
    "gate": {"max_val_mse": 0.1, "clean_input": None, "beat_noisy_input": False, "champion": None},
}
"""Of every training here: a few seconds, and a gate that is open unless a test closes it."""
LONG = ("--set", "train.epochs=2000")
UNTRIED = ("--set", "gate.smoke_test=null")
"""For runs after which nobody asks whether the model works: it is not tried in a process of its own."""
QUICK = """
[server.services.scheduler]
loop_seconds = 3
[server.services.late_runs]
loop_seconds = 2
after_seconds = 5
[server.deployments]
concurrency_slot_wait_seconds = 3
"""
"""Of the Prefect server, which reads it in the folder it runs in: how long it waits before it looks again, and no more."""


SHOWN: list[str] = []
"""Lines for the end of the report: what was measured."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in SHOWN:
        terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


def unused_ports(count: int) -> list[int]:
    """Return ports below those that a system gives out by itself, which might do so while the services are down."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


class Receiver:
    """A webhook's other end: keeps what it is sent."""

    def __init__(self) -> None:
        received: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(json.loads(body)["text"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.received = received
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Team:
    """A project's folder, its servers, and the command a member of the team types."""

    def __init__(self, home: Path, receiver: Receiver) -> None:
        self.home, self.receiver = home, receiver
        (home / "configs").mkdir(parents=True)
        (home / "deploy").mkdir()
        for name in ("default", "smoke"):
            model = {"model_name": "dae" if name == "default" else "dae-smoke"}
            (home / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(SMALL | {"tracking": model}))
        shutil.copy(ROOT / "deploy" / "server.yaml", home / "deploy")
        shutil.copy(ROOT / "prefect.yaml", home)
        ports = dict(zip(("POSTGRES", "MLFLOW", "PREFECT"), unused_ports(3), strict=True))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "DAE_", "COV_"))}
        self.bare = inherited | {f"DAE_{name}_PORT": str(port) for name, port in ports.items()}
        self.bare |= {"DAE_HOME": str(home), "DAE_WEBHOOK_URL": receiver.url, "COLUMNS": "200"}
        self.bare["DAE_MLFLOW_ORIGINS"] = "https://mlflow.test"
        self.prefect_url = f"http://127.0.0.1:{ports['PREFECT']}"
        self.mlflow_url = f"http://127.0.0.1:{ports['MLFLOW']}"
        self.ports = ports
        self._commands: Commands | None = None
        self.hurry()

    def hurry(self) -> None:
        """Have the Prefect server look more often for what is due; its file goes when the services' folder does."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "prefect.toml").write_text(QUICK)

    @property
    def folder(self) -> Path:
        return self.home / ".services"

    @property
    def login(self) -> dict[str, str]:
        """What ``make services`` says a shell is to read."""
        lines = (self.folder / "client.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    @property
    def environment(self) -> dict[str, str]:
        return self.bare | self.login

    def dae(
        self, *arguments: str, anonymous: bool = False, fresh: bool = False, more: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, logged in unless `anonymous`; with `fresh`, started as a shell would."""
        env = (self.bare if anonymous else self.environment) | (more or {})
        if not (anonymous or fresh):
            return self.commands.run(arguments, env)
        command = [sys.executable, "-m", "dae.cli", *arguments]
        return subprocess.run(command, env=env, cwd=self.home, capture_output=True, text=True, timeout=300, check=False)

    @property
    def commands(self) -> Commands:
        """The process that commands are forked from; it starts when first asked for."""
        self._commands = self._commands or Commands(self.environment, self.home)
        return self._commands

    def close(self) -> None:
        """Stop the process that commands are forked from."""
        if self._commands is not None:
            self._commands.close()

    @contextmanager
    def triggered(self, *arguments: str, until: str = "epoch 3:") -> Iterator[Triggered]:
        """Start ``dae trigger`` and yield it once it has said `until`; where a test fails the run is cancelled."""
        command = [sys.executable, "-u", "-m", "dae.cli", "trigger", *arguments, "--timeout", "15"]
        with subprocess.Popen(
            command, env=self.environment, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if until in line:
                    break
            else:
                pytest.fail(f"the run never said {until}: {said}")
            try:
                yield Triggered(process, flow_run_id(said))
            except BaseException:
                with self.prefect() as client:
                    client.set_flow_run_state(UUID(flow_run_id(said)), Cancelling())
                raise
            finally:
                process.kill()

    @contextmanager
    def prefect(self) -> Iterator[SyncPrefectClient]:
        login = self.login
        chosen = {
            PREFECT_API_URL: login["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: login["PREFECT_API_AUTH_STRING"],
        }
        with temporary_settings(chosen), get_client(sync_client=True) as client:
            yield client

    def flow_run(self, run_id: str) -> FlowRun:
        with self.prefect() as client:
            return client.read_flow_run(UUID(run_id))

    def ended(self, run_id: str) -> Any:
        """Return a flow run once it has ended."""
        found = self.flow_run(run_id)
        return found if found.state is not None and found.state.is_final() else None

    def mlflow(self) -> MlflowClient:
        """Return MLflow's own client; it logs in by the environment, which the fixture sets."""
        return MlflowClient(self.mlflow_url)

    def champion(self, name: str) -> str | None:
        """Return the version that is live, None where there is no such model yet."""
        if not self.mlflow().search_registered_models(f"name='{name}'"):
            return None
        aliases = self.mlflow().get_registered_model(name).aliases
        return str(aliases["champion"]) if "champion" in aliases else None

    def runs(self) -> list[Any]:
        client = self.mlflow()
        return list(client.search_runs([each.experiment_id for each in client.search_experiments()], max_results=1000))

    def processes(self, *words: str) -> list[psutil.Process]:
        """Return this team's processes whose command line has all the words."""
        found = []
        for process in psutil.process_iter():
            try:
                belongs = process.environ().get("DAE_SERVICES_OF") == str(self.folder)
                if belongs and all(word in " ".join(process.cmdline()) for word in words):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def worker(self) -> psutil.Process:
        return wait(lambda: self.processes("worker", "--pool"), 60)[0]

    def flow_process(self, run_id: str) -> psutil.Process:
        """Return the process of a flow run."""
        engines = self.processes("prefect.engine")
        (found,) = [each for each in engines if run_id in each.environ().get("PREFECT__FLOW_RUN_ID", "")]
        return found

    def wait_for_worker(self) -> None:
        """Wait until the server knows the worker that runs, by the name that no other has."""
        wait(self._worker_is_online, 120)

    def _worker_is_online(self) -> bool:
        mine = {supervision.worker_name(each.pid) for each in self.processes("worker", "--pool")}
        login = ("admin", self.login["PREFECT_API_AUTH_STRING"].partition(":")[2])
        url = f"{self.prefect_url}/api/work_pools/dae/workers/filter"
        known = httpx.post(url, json={}, auth=login, timeout=30).raise_for_status().json()
        return any(each["status"] == "ONLINE" and each["name"] in mine for each in known)


class Triggered:
    """A ``dae trigger`` that is under way, and the id of its flow run."""

    def __init__(self, process: subprocess.Popen[str], run_id: str) -> None:
        self.process, self.run_id = process, run_id

    def ended(self) -> tuple[int, str]:
        """Wait for it, and return its exit code and what it said since."""
        said = self.process.communicate(timeout=600)[0]
        return self.process.returncode, said


class Commands:
    """The process that a team's commands are forked from."""

    def __init__(self, env: dict[str, str], home: Path) -> None:
        self._home, self._said = home, Path(tempfile.mkdtemp(prefix="dae-said-"))
        command = [sys.executable, str(Path(__file__).with_name("commands.py"))]
        self._server = subprocess.Popen(
            command, env=env | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, arguments: tuple[str, ...], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        files = {name: str(self._said / name) for name in ("stdout", "stderr")}
        asked = files | {"arguments": arguments, "env": env, "cwd": str(self._home)}
        watch = threading.Timer(600, self._server.kill)  # a command that hangs is a failure, not a wait for ever
        watch.start()
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        code = self._server.stdout.readline()
        watch.cancel()
        out, err = (Path(file).read_text() for file in files.values())
        return subprocess.CompletedProcess(list(arguments), int(code or -9), out, err)

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()
        shutil.rmtree(self._said)


def wait(ask: Callable[[], Found | None], seconds: float, every: float = 0.5) -> Found:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        time.sleep(every)
    return found


def flow_run_id(said: str) -> str:
    """Return the id of the flow run that ``dae trigger`` named."""
    match = re.search(r"/flow-run/([0-9a-f-]{36})", said)
    assert match, said
    return match[1]


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="session")
def everybody(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that PostgreSQL's user can enter as well, where root runs the tests; kept where a test failed.

    Not under pytest's own folder, which any other pytest of this user closes to others as it starts.
    """
    folder = Path(tempfile.mkdtemp(prefix="dae-team-"))
    folder.chmod(0o755)
    yield folder
    if not request.session.testsfailed:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def first_start(everybody: Path, receiver: Receiver) -> Iterator[tuple[Team, subprocess.CompletedProcess[str]]]:
    """The services started from nothing, what the command said of it, and the deployments made."""
    team = Team(everybody / "p", receiver)
    started = team.dae("services", "up", anonymous=True)
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        assert team.commands  # which imports what it needs while the first tests go on
        yield team, started
    finally:
        team.close()
        team.dae("services", "down", anonymous=True)
        left = team.processes()
        for each in left:
            each.kill()
        assert not left


@pytest.fixture
def services(first_start: tuple[Team, object], monkeypatch: pytest.MonkeyPatch) -> Team:
    """The team, its servers up; this process is logged in to MLflow."""
    log_in(first_start[0], monkeypatch)
    return first_start[0]


def log_in(team: Team, patch: pytest.MonkeyPatch) -> None:
    """Have this process log in to the team's MLflow."""
    for name, value in team.login.items():
        if name.startswith("MLFLOW_"):
            patch.setenv(name, value)


@pytest.fixture
def other(everybody: Path, receiver: Receiver, request: pytest.FixtureRequest) -> Iterator[Team]:
    """A second project, whose services a test starts for itself."""
    made = Team(everybody / request.node.name[-12:].strip("_"), receiver)
    yield made
    made.dae("services", "down", anonymous=True)
    for each in made.processes():
        each.kill()


@pytest.fixture(scope="session")
def deployed(first_start: tuple[Team, object]) -> subprocess.CompletedProcess[str]:
    """The first ``dae deploy``, of schedules that fire when a test wants it to."""
    team = first_start[0]
    file = team.home / "prefect.yaml"
    tree = yaml.safe_load(file.read_text())
    for deployment in tree["deployments"]:
        deployment["schedules"] = [
            each | {"cron": "0 3 29 2 *"} for each in deployment.get("schedules") or ()
        ]  # a leap day
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    done = team.dae("deploy", fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def team(services: Team, deployed: object) -> Team:
    """The team, with everything deployed and the worker online."""
    services.wait_for_worker()
    return services


class Promoted:
    """A run of `ci` that was promoted: what the command said and wrote, how long it took, and the champion after it."""

    def __init__(self, team: Team, folder: Path) -> None:
        self.summary, self.junit = folder / "summary.md", folder / "junit.xml"
        self.summary.write_text("# Before\n")
        asked = ("--summary", str(self.summary), "--junit", str(self.junit))
        started = time.monotonic()
        self.done = team.dae("trigger", "ci", *asked, fresh=True, more={"DAE_ACTOR": "ada"})
        self.seconds = time.monotonic() - started
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr
        self.run_id = flow_run_id(self.done.stdout)
        with pytest.MonkeyPatch.context() as patch:
            log_in(team, patch)
            self.champion = team.champion("dae-smoke")


@pytest.fixture(scope="session")
def promoted(first_start: tuple[Team, object], deployed: object, tmp_path_factory: pytest.TempPathFactory) -> Promoted:
    """The one run that the tests of reports, pages and backups look at, each for itself."""
    team = first_start[0]
    team.wait_for_worker()
    return Promoted(team, tmp_path_factory.mktemp("promoted"))
