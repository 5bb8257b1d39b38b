"""The command as a person runs it, with Prefect's temporary server, stopped in the middle of training."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dae.tracking import runs
from dae.tracking.client import connect

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_prefect_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture
def running(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A training run of many epochs, just past its second one."""
    command = [sys.executable, "-m", "dae.cli", "train", "--config", str(SMOKE), "--set", "train.epochs=500"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ, start_new_session=True
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Epoch 3/"):
                break
        yield process
        process.kill()


def servers_of(home: Path) -> list[psutil.Process]:
    """Return the processes, still alive, that were started with this test's Prefect home."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get("PREFECT_HOME") == str(home / "prefect")
                and "flows.deployment.local_server" in process.cmdline()
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, "KILLED"), (signal.SIGTERM, "KILLED"), (signal.SIGKILL, "RUNNING")]
)
def test_a_stopped_command_leaves_no_server_and_a_run_that_can_go_on(
    running: subprocess.Popen[str], home: Path, number: signal.Signals, status: str
) -> None:
    servers = servers_of(home)
    assert len(servers) == 1
    output = None
    for _ in range(3):
        os.killpg(running.pid, number)  # as a terminal does: every process of the group gets it
        with suppress(subprocess.TimeoutExpired):
            output = running.communicate(timeout=30)[0]
            break  # else Python lost the interruption, as it does in a destructor: a person presses again
    assert output is not None
    assert psutil.wait_procs(servers, timeout=30)[1] == []

    (run,) = connect().search_runs([each.experiment_id for each in connect().search_experiments()])
    assert run.info.status == status
    assert output.count("Traceback") == output.count("Exception ignored in")  # by which Python tells of a lost one
    if status == "KILLED":
        assert re.search(rf"to resume it: \S*dae train --resume {run.info.run_id}", output)
    assert runs.read_resumable_config(run.info.run_id[:8]).tracking.resume == run.info.run_id
    assert len(list((home / ".dae" / "checkpoints" / run.info.run_id).glob("epoch-*.keras"))) in (1, 2)
