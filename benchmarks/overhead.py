"""Overhead: what a run costs beside ingest, corrupt, train and evaluate, the first time and later, and what its parts cost.

The whole is that of `dae train --config configs/smoke.yaml`, from a bare home. The parts are each taken by themselves, one
after the other, in a process of their own in the same home; in a run the first four overlap, since Prefect's server starts
in one process while the libraries are imported in another.

The largest parts are the start-up of Prefect's server, the import of Keras and TensorFlow, and tracking, which is mostly
the drawing of figures. The first two are under way at the same time, in two processes, as soon as a command starts;
packages are named to MLflow beforehand, which would otherwise spend ten seconds on finding out what a model needs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import flows
from benchmarks.measure import Row

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
STAGES = ("ingest", "corrupt", "train", "evaluate")
RUNS, REPEATS = 4, 3
PARTS = r"""
import json, time
from dae import runtime
runtime.configure(terminal=True)
took, started = {}, time.perf_counter()
def part(name):
    global started
    took[name] = time.perf_counter() - started
    started = time.perf_counter()

from flows.deployment import local_server
url = local_server.start_server()()
part("start-up of Prefect's server")
import prefect
part("import of Prefect")
import mlflow
part("import of MLflow")
import flows.train
from dae.tracking import log_model, client as client_module
part("import of the flow")
runtime.import_keras()
part("import of Keras and TensorFlow")

from prefect import flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings
@task
def nothing(): pass
@flow
def five_tasks():
    for _ in range(5): nothing()
with temporary_settings({PREFECT_API_URL: url}):
    started = time.perf_counter()
    five_tasks()
    part("orchestration: a flow of five tasks that do nothing")

import numpy as np
from dae.evaluation import figures
from dae.networks.build import build_network
from dae.config.schema import ModelConfig, PipelineConfig
config = PipelineConfig()
started = time.perf_counter()
with open_run(config, "none") as run_id:
    rows = [{"train_loss": 0.1, "val_mse": 0.1 / (epoch + 1), "epoch_seconds": 1.0} for epoch in range(8)]
    for epoch, row in enumerate(rows):
        log_epoch(run_id, epoch, row)
    for name in ("loss_curves", *"abcdefg"):
        log_figure(run_id, figures.plot_loss_curves(rows, 0.0069), name)
part("tracking: a run of eight epochs and eight figures")
model = build_network(ModelConfig(), (28, 28, 1))
model.compile("adam", "mse")
started = time.perf_counter()
log_model.log_model(run_id, model, np.zeros((2, 28, 28, 1), np.float32), "dae")
part("model logging")
print(json.dumps(took))
"""


def measure() -> list[Row]:
    """Run the smoke configuration from a bare home, the first time and again, and then the parts."""
    runs, parts = [], []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for _ in range(RUNS):
            measured = flows.train(home, "--config", str(SMOKE))
            text = (home / "log.txt").read_text()
            stages = [float(re.findall(rf"{stage} ([0-9.]+)", text)[-1]) for stage in STAGES]
            runs.append((measured.seconds, measured.seconds - sum(stages)))
        for _ in range(REPEATS):
            done = subprocess.run(
                [sys.executable, "-c", PARTS],
                env=flows.environment(home),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            parts.append(json.loads(done.stdout.splitlines()[-1]))
    first, *later = runs
    return [
        Row("whole command, first run", "s", first[:1]),
        Row("beside the four stages, first run", "s", first[1:]),
        Row("whole command, later runs", "s", tuple(whole for whole, _ in later)),
        Row("beside the four stages, later runs", "s", tuple(beside for _, beside in later)),
        *(Row(name, "s", tuple(part[name] for part in parts)) for name in parts[0]),
    ]
