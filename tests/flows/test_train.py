"""The flow end to end: a real Prefect server, a real MLflow store, the smoke configuration."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import keras
import mlflow
import numpy as np
import pytest
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.states import Running

from dae.config import loading
from dae.config.schema import NoiseConfig, PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.promotion import audit_log, registry, reports, tables
from dae.promotion.schemas import PipelineResult
from dae.tracking import models, runs
from dae.tracking.client import TrackingError, connect
from dae.tracking.runs import open_run
from flows.train import train_denoiser

KINDS = tuple(NoiseConfig().shares())
Commands = tuple[tuple[PipelineConfig, int, str], ...]
SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
TINY = [
    "data.limit=300",
    "data.validation=60",
    "data.test_limit=120",
    "train.epochs=1",
    "model.width=8",
    "gate.smoke_test=null",
]

pytestmark = pytest.mark.usefixtures("prefect_server", "mlflow_store")


def smoke(*settings: str) -> PipelineConfig:
    return loading.load(SMOKE, settings)


def flow_run(run_id: str) -> tuple[str, str]:
    """Return the name and the final state of the flow run behind an MLflow run."""
    flow_run_id = connect().get_run(run_id).data.tags["prefect.flow_run_id"]
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(UUID(flow_run_id))
    return found.name, str(found.state and found.state.type.value)


def only_run() -> mlflow.entities.Run:
    (run,) = connect().search_runs([e.experiment_id for e in connect().search_experiments()])
    return run


@dataclass(frozen=True)
class Finished:
    """Three runs, one after the other: promoted, refused, promoted."""

    configs: tuple[PipelineConfig, ...]
    results: tuple[PipelineResult, ...]


@pytest.fixture
def three(trained: tuple[Path, Commands], monkeypatch: pytest.MonkeyPatch) -> Finished:
    """The three runs, with the store they are in as the one in use."""
    monkeypatch.setenv("DAE_HOME", str(trained[0]))
    connect()
    run_ids = [str(re.findall(r"MLflow run (\w{32}) at", out)[0]) for _, _, out in trained[1]]
    return Finished(tuple(config for config, _, _ in trained[1]), tuple(map(reports.read_result, run_ids)))


def test_a_promoted_run_ends_alike_in_prefect_and_mlflow(three: Finished) -> None:
    config, result = three.configs[0], three.results[0]
    run = connect().get_run(result.run_id)
    assert result.version.verdict.promoted
    assert (run.info.run_name, run.info.status) == (config.run_name, "FINISHED")
    assert flow_run(result.run_id) == (config.run_name, "COMPLETED")


def test_a_run_holds_its_configuration_curves_scores_and_pictures(three: Finished) -> None:
    config, result = three.configs[0], three.results[0]
    client = connect()
    run = client.get_run(result.run_id)
    assert run.data.params == {key: str(value) for key, value in config.flat().items()}
    assert runs.read_config(result.run_id) == config
    for curve in ("train_loss", "val_mse"):
        assert [point.step for point in client.get_metric_history(result.run_id, curve)] == [1, 2]
    expected = {f"{split}_mse_{kind}{end}" for split in ("val", "test") for kind in KINDS for end in ("", "_nothing")}
    assert expected | {"best_val_mse", "test_mse", "test_psnr", "test_ssim"} <= run.data.metrics.keys()
    assert run.data.metrics["best_val_mse"] == pytest.approx(result.model.best_val_mse, rel=1e-6)
    stored = {artifact.path for artifact in client.list_artifacts(result.run_id, "figures")}
    names = {"overview", "worst", "article_grid", "loss_curves"} | {f"kind_{kind}" for kind in KINDS}
    assert stored == {f"figures/{name}.png" for name in names}
    files = {artifact.path for artifact in client.list_artifacts(result.run_id)}
    assert {"config.yaml", "environment", "scores.json"} <= files


def test_a_run_names_its_data_by_the_digests_of_every_byte(three: Finished) -> None:
    images = datasets.ingest(three.configs[0].data)
    noisy = noisy_datasets.corrupt_sets(images, three.configs[0].noise)
    run = connect().get_run(three.results[0].run_id)
    assert run.inputs is not None
    digests = {
        tag.value: each.dataset.digest
        for each in run.inputs.dataset_inputs
        for tag in each.tags
        if tag.key == "mlflow.data.context"
    }
    full = {"train": images.train.sha256, "validation": noisy.validation.sha256, "test": noisy.test.sha256}
    assert digests == {split: digest[:32] for split, digest in full.items()}
    assert run.data.tags["data_digest"] == images.digest


def test_a_version_is_the_scored_model_with_its_verdict_and_origin(three: Finished) -> None:
    result = three.results[0]
    version = connect().get_model_version("dae-smoke", "1")
    assert version.source == result.model.model_uri
    assert version.tags["verdict"] == "promoted"
    assert float(version.tags["best_val_mse"]) == result.scores.validation.pooled.mse
    tags = {"config_digest", "data_digest", "noise_digest.validation", "noise_digest.test", "git_commit", "git_dirty"}
    assert tags <= version.tags.keys()


def test_the_scores_are_those_of_the_logged_model(three: Finished) -> None:
    config, result = three.configs[0], three.results[0]
    noisy = noisy_datasets.corrupt_sets(datasets.ingest(config.data), config.noise)
    model = models.load_model(result.model.model_uri)
    for stored, scores in ((noisy.validation, result.scores.validation), (noisy.test, result.scores.test)):
        damaged, clean, kinds = noisy_datasets.read_block(stored, slice(None))
        error = np.mean((model.predict(damaged, verbose=0).astype(np.float64) - clean) ** 2, axis=(1, 2, 3))
        nothing = np.mean((np.clip(damaged, 0, 1).astype(np.float64) - clean) ** 2, axis=(1, 2, 3))
        assert scores.pooled.mse == pytest.approx(error.mean(), rel=1e-6)
        assert scores.pooled_nothing.mse == pytest.approx(nothing.mean(), rel=1e-6)
        for index, kind in enumerate(stored.kinds):
            assert scores.per_kind[kind].mse == pytest.approx(error[kinds == index].mean(), rel=1e-6)
            assert scores.per_kind_nothing[kind].mse == pytest.approx(nothing[kinds == index].mean(), rel=1e-6)


def test_a_refusal_is_registered_and_ends_well(three: Finished) -> None:
    refused = three.results[1]
    assert not refused.version.verdict.promoted
    assert "val_mse" in refused.version.verdict.reasons[0]
    assert (refused.version.version, refused.version.aliases) == ("2", ())
    assert connect().get_run(refused.run_id).info.status == "FINISHED"
    assert flow_run(refused.run_id)[1] == "COMPLETED"
    tags = connect().get_model_version("dae-smoke", "2").tags
    assert tags["verdict"] == "refused"
    assert tags["verdict_reasons"] == "; ".join(refused.version.verdict.reasons)


def test_the_champion_is_the_version_promoted_last(three: Finished) -> None:
    assert [result.version.aliases for result in three.results] == [("champion",), (), ("champion",)]
    assert registry.find_champion("dae-smoke") == three.results[2].version.version == "3"
    verdicts = [(record["verdict"], record["model_version"]) for record in tables.as_records(tables.read_runs())]
    assert verdicts == [("promoted", "3"), ("refused", "2"), ("promoted", "1")]


def test_the_ledger_tells_the_story_of_the_runs(three: Finished) -> None:
    story = [
        (entry.event, entry.version, entry.against, entry.champion) for entry in audit_log.read_entries("dae-smoke")
    ]
    assert story == [("promoted", "1", None, "1"), ("refused", "2", "1", "1"), ("promoted", "3", "1", "3")]
    assert [entry.run_id for entry in audit_log.read_entries("dae-smoke")] == [
        result.run_id for result in three.results
    ]
    assert audit_log.read_state("dae-smoke").pending == ()


def test_the_third_met_the_champion_on_the_same_images(three: Finished) -> None:
    checks = {check.name: check for check in three.results[2].version.verdict.checks}
    assert checks["vs_champion"].source == "champion, version 1"
    assert checks["vs_champion"].value == 0  # the same recipe, the same seed, the same pixels
    assert {f"vs_champion_{kind}" for kind in KINDS} <= checks.keys()
    assert {check.name for check in three.results[0].version.verdict.checks} >= {
        "loads",
        "checksum",
        "outputs",
        "other_size",
    }


def test_the_champion_predicts_on_its_own_input_example(three: Finished) -> None:
    model = mlflow.pyfunc.load_model("models:/dae-smoke@champion")
    example = model.input_example
    assert example is not None
    assert model.predict(example).shape == example.shape == (2, 28, 28, 1)


def test_the_logged_model_file_opens_in_plain_keras(three: Finished) -> None:
    result = three.results[0]
    folder = Path(mlflow.artifacts.download_artifacts(result.model.model_uri))
    assert keras.saving.load_model(folder / "data" / "model.keras", safe_mode=True).count_params() == (
        result.model.parameters
    )


def test_a_finished_run_and_an_unknown_one_are_not_resumed(three: Finished) -> None:
    for run_id, rule in ((three.results[0].run_id, "only an unfinished run"), ("0" * 32, "no run")):
        tracked = three.configs[0].tracking.model_copy(update={"resume": run_id})
        with pytest.raises(TrackingError, match=rule):
            train_denoiser(three.configs[0].model_copy(update={"tracking": tracked}))
    assert connect().get_run(three.results[0].run_id).info.status == "FINISHED"


def test_an_error_fails_both_runs_and_registers_nothing(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(80):
        Image.new("L", (20 if number else 16, 16)).save(tmp_path / "images" / f"{number:02}.png")
    with pytest.raises(ValueError, match=r"01\.png: must be 16x16"):
        train_denoiser(smoke(f"data.source={tmp_path / 'images'}", "data.validation=10", "data.test=10"))
    run = only_run()
    assert run.info.status == "FAILED"
    assert "01.png" in run.data.tags["error"]
    assert flow_run(run.info.run_id)[1] == "FAILED"
    assert connect().search_registered_models() == []


def test_an_image_size_the_network_cannot_take_stops_before_training(tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((300, 28, 30), np.uint8))
    settings = [f"data.source={tmp_path / 'wide.npy'}", "data.validation=10", "data.test=10", "data.test_limit=null"]
    with pytest.raises(ValueError, match="takes images of 28x28x1, received 28x30x1"):
        train_denoiser(smoke(*settings, "model.architecture=article"))
    assert connect().get_metric_history(only_run().info.run_id, "val_mse") == []


@pytest.mark.slow
def test_colour_images_of_odd_size_go_through(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (23, 17, 3), np.uint8)).save(folder / f"{number:02}.png")
    settings = [f"data.source={folder}", "data.validation=8", "data.test=8", "train.batch_size=8"]
    settings += ["data.limit=null", "data.test_limit=null"]
    result = train_denoiser(smoke(*TINY, *settings))
    assert result.scores.test.pooled.count == 8
    assert mlflow.pyfunc.load_model(result.model.model_uri).predict(np.zeros((1, 30, 31, 3), np.float32)).shape == (
        1,
        30,
        31,
        3,
    )


KILLED = """
import os, signal, sys
from dae import runtime
runtime.configure()
from dae.config import loading
from flows.train import train_denoiser
module = sys.modules["tasks.train"]
log_epoch = module.log_epoch
def log_and_die(run_id, epoch, row):
    log_epoch(run_id, epoch, row)
    os.kill(os.getpid(), signal.SIGKILL)
module.log_epoch = log_and_die
train_denoiser(loading.load(None, sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_run_is_resumed_as_the_same_mlflow_run_with_the_same_curve() -> None:
    config = smoke(*TINY, "train.epochs=3")
    settings = [f"{section}={json.dumps(value)}" for section, value in config.model_dump(mode="json").items()]
    killed = subprocess.run([sys.executable, "-c", KILLED, *settings], env=os.environ, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    run = only_run()
    assert run.info.status == "RUNNING"

    resumed = runs.read_config(run.info.run_id)
    resumed = resumed.model_copy(update={"tracking": resumed.tracking.model_copy(update={"resume": run.info.run_id})})
    result = train_denoiser(resumed)
    undisturbed = train_denoiser(config)
    assert result.run_id == run.info.run_id
    client = connect()
    curves = [
        [(point.step, point.value) for point in client.get_metric_history(run_id, "val_mse")]
        for run_id in (result.run_id, undisturbed.run_id)
    ]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 3
    assert result.scores.validation == undisturbed.scores.validation
    assert client.get_run(result.run_id).info.status == "FINISHED"


def test_who_would_resume_a_live_run_leaves_its_flow_run_alone() -> None:
    with get_client(sync_client=True) as client:
        live = client.create_flow_run(train_denoiser, state=Running())
        with open_run(smoke(*TINY), str(live.id)) as run_id:
            with pytest.raises(TrackingError, match="its process lives"):
                train_denoiser(smoke(*TINY, f"tracking.resume={run_id}"))
            assert client.read_flow_run(live.id).state_name == "Running"


def test_a_run_is_not_resumed_under_another_configuration() -> None:
    first = smoke(*TINY)
    with pytest.raises(KeyboardInterrupt), open_run(first, "none") as run_id:
        raise KeyboardInterrupt
    assert connect().get_run(run_id).info.status == "KILLED"
    with pytest.raises(TrackingError, match="another configuration"):
        train_denoiser(smoke(*TINY, "train.seed=5", f"tracking.resume={run_id}"))
