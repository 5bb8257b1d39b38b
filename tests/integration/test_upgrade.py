"""What the previous release backed up, taken over by this one, beside another project that is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from prefect.client.schemas.objects import StateType

import dae

from .conftest import Team, log_in, wait

BACKUP = Path(__file__).with_name("previous-release")
"""Its README.txt says what it holds, and what its champion makes of an image."""
RUNS = {"7cfaf876187747cf9f168e5f267b3249", "ea60b9829c824933ab3b892f09dce389"}


def test_a_backup_of_the_previous_release_is_restored_upgraded_and_goes_on(
    services: Team, other: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (("restore", str(BACKUP), "--yes"), ("upgrade",), ("up",)):
        done = other.dae("services", *arguments, anonymous=True)
        assert done.returncode == 0, done.stdout + done.stderr
    log_in(other, monkeypatch)
    _everything_is_there(other)
    deployed = other.dae("deploy", fresh=True)  # the project lies elsewhere now
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert other.dae("deploy", "--check", fresh=True).returncode == 0
    _down_stops_it_though_its_supervisor_was_killed(services, other)


def _everything_is_there(team: Team) -> None:
    assert team.champion("dae-smoke") == "2"
    image = np.linspace(0, 1, 784, dtype=np.float32).reshape(1, 28, 28, 1)
    restored = dae.load("models:/dae-smoke@champion")(image)
    assert (float(restored.sum()), float(restored.std())) == pytest.approx((306.19492, 0.2920593), rel=1e-4)
    runs = {run.info.run_id: run for run in team.runs()}
    assert {runs[each].info.status for each in RUNS} == {"FINISHED"}
    history = json.loads(team.dae("models", "history", "--name", "dae-smoke", "--json", fresh=True).stdout)
    assert [(each["event"], each["version"]) for each in history] == [("promoted", "1"), ("promoted", "2")]
    with team.prefect() as client:
        ci = client.read_deployment_by_name("train-denoiser/ci")
        mine = [run for run in client.read_flow_runs(limit=200) if run.deployment_id == ci.id]
    assert [run.state_type for run in mine] == [StateType.COMPLETED] * 2
    assert {run.data.tags["prefect.flow_run_id"] for run in map(runs.get, RUNS) if run} == {str(run.id) for run in mine}


def _down_stops_it_though_its_supervisor_was_killed(services: Team, other: Team) -> None:
    """And nothing of the first project's."""
    mine = {process.pid for process in services.processes()}
    for process in other.processes("supervisord"):
        process.kill()
    refused = other.dae("services", "up", anonymous=True)
    assert refused.returncode == 1
    assert "services-down stops it" in refused.stderr
    down = other.dae("services", "down", anonymous=True)
    assert down.returncode == 0, down.stderr
    wait(lambda: not other.processes(), 60)
    assert mine <= {process.pid for process in services.processes()}
    again = other.dae("services", "up", anonymous=True)
    assert again.returncode == 0, again.stderr
    assert other.champion("dae-smoke") == "2"
    assert other.dae("services", "down", anonymous=True).stdout.startswith("Stopped: ")
    assert other.dae("services", "down", anonymous=True).stdout == "No services are running.\n"
    assert services.dae("services", "status", anonymous=True).returncode == 0
