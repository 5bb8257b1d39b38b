"""Two training commands at once against one MLflow server: one champion, the better, and a ledger that tells how."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dae.promotion import audit_log, registry

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
NAME = "dae-smoke"

pytestmark = pytest.mark.slow


def train(home: Path, epochs: int) -> subprocess.Popen[str]:
    home.mkdir()
    command = [sys.executable, "-m", "dae.cli", "train", "--config", str(SMOKE), "--set", f"train.epochs={epochs}"]
    environment = os.environ | {"DAE_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_flows_at_once_end_with_the_better_champion(
    home: Path,
    mlflow_store: Path,
    unused_port: int,
    wait_for_http: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"http://127.0.0.1:{unused_port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{mlflow_store}"]
    command += ["--artifacts-destination", str(home / "artifacts"), "--host", "127.0.0.1", "--port", str(unused_port)]
    with subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for_http(f"{address}/health")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            both = [train(home / str(epochs), epochs) for epochs in (1, 3)]
            outputs = [process.communicate(timeout=400)[0] for process in both]
            codes = [process.returncode for process in both]
            assert set(codes) <= {0, 10}, "\n".join(outputs)
            entries = audit_log.read_entries(NAME)
            errors = {version.version: float(version.tags["best_val_mse"]) for version in registry.list_versions(NAME)}
            better = str(min(errors, key=lambda version: errors[version]))
            assert registry.list_aliases(NAME) == {"champion": better}
            assert len(entries) == len(errors) == 2
            assert entries[-1].champion == better
            assert [entry.event for entry in entries] in (["promoted", "promoted"], ["promoted", "refused"])
            assert entries[1].against == entries[0].version
            assert audit_log.read_state(NAME).pending == ()
            shown = subprocess.run(
                [sys.executable, "-m", "dae.cli", "models", "--name", NAME, "--json"],
                env=os.environ,
                check=True,
                capture_output=True,
                text=True,
            )
            assert [each["aliases"] for each in json.loads(shown.stdout) if each["version"] == better] == [["champion"]]
        finally:
            server.terminate()
