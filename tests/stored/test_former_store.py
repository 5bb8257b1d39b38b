"""What the version before fields and modules were renamed stored: it still opens. ``make_store.py`` made the archive."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from prefect import Flow
from prefect.client.schemas.responses import DeploymentResponse
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import validate
from typer.testing import CliRunner

import dae
from dae import storage
from dae.cli import app
from dae.config import schema
from dae.config.schema import SECTIONS, PipelineConfig
from dae.promotion import audit_log, history, promote, registry, reports, rollback, tables
from dae.promotion.registry import RegistryError
from dae.promotion.schemas import SmokeTestResult
from dae.schemas import Scores
from dae.tracking import models, runs
from dae.tracking.client import connect
from flows.deployment.trigger import fit_to_schema, make_parameters
from flows.train import train_denoiser

ARCHIVE = Path(__file__).with_name("store.tar.xz")
PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns with absolute paths."""
PROMOTED, REFUSED, FORCED = "1", "2", "3"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive's content, in its new place."""
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    former = (folder / "home.txt").read_text()
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as database:
        for table, column in PATHS:
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (former, str(folder)))
        database.commit()
    return folder


@pytest.fixture
def store(unpacked: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """The store in use. Tests only read it."""
    monkeypatch.setenv("DAE_HOME", str(unpacked))
    schema.warn_of_former_name.cache_clear()
    connect()
    caplog.set_level(logging.WARNING)
    return unpacked


@pytest.fixture
def copied_store(store: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the database, for a test that writes. The artifacts stay where they are."""
    (home / "mlruns").mkdir()
    shutil.copy(store / "mlruns" / "mlflow.db", home / "mlruns" / "mlflow.db")
    monkeypatch.setenv("DAE_HOME", str(home))
    connect()


@pytest.fixture
def run_ids(store: Path) -> list[str]:
    """The runs of the three versions."""
    return [str(registry.get_version("dae", version).run_id) for version in (PROMOTED, REFUSED, FORCED)]


def run_command(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


# Models


@pytest.mark.usefixtures("store")
def test_the_champion_restores_an_image() -> None:
    image = np.zeros((28, 28), np.float32)
    image[8:20, 10:16] = 0.9
    image += np.random.default_rng(0).normal(0, 0.1, image.shape).astype(np.float32)
    restored = dae.load()(image)
    assert (restored.shape, restored.dtype) == (image.shape, image.dtype)
    assert np.isfinite(restored).all()


@pytest.mark.usefixtures("store")
def test_the_stored_example_is_restored_as_before() -> None:
    """The file beside the model has noisy images and the output of the model when it was logged."""
    uri = models.locate_model("models:/dae@champion").uri
    example = np.load(models.download_model(uri) / storage.REFERENCE)
    restored = models.load_model(uri).predict(example["noisy"], verbose=0)
    np.testing.assert_allclose(restored, example["restored"], atol=1e-5)


@pytest.mark.usefixtures("store")
def test_versions_have_their_aliases_and_verdicts() -> None:
    versions = {record["version"]: record for record in tables.read_versions("dae")}
    assert {version: record["aliases"] for version, record in versions.items()} == {
        PROMOTED: [],
        REFUSED: [],
        FORCED: ["champion"],
    }
    assert registry.find_champion("dae") == FORCED
    assert [versions[version]["verdict"] for version in (PROMOTED, REFUSED, FORCED)] == [
        "promoted",
        "refused",
        "forced",
    ]


# Audit log


@pytest.mark.usefixtures("store")
def test_the_audit_log_has_its_entries_and_nothing_is_pending() -> None:
    entries = audit_log.read_entries("dae")
    assert [(entry.event, entry.version, entry.champion) for entry in entries] == [
        ("promoted", PROMOTED, PROMOTED),
        ("refused", REFUSED, PROMOTED),
        ("forced", FORCED, FORCED),
    ]
    assert entries[-1].reason.startswith("a reason")
    assert [period.version for period in history.live_periods(entries)] == [PROMOTED, FORCED]
    assert promote.reconcile("dae", write=False) == entries
    assert promote.describe_pending("dae") == []


@pytest.mark.usefixtures("copied_store")
def test_a_rollback_goes_back_to_the_first_champion() -> None:
    tested: list[str] = []

    def smoke_test(version: str) -> SmokeTestResult:
        tested.append(version)
        sha256 = "a" * 64
        return SmokeTestResult(sha256=sha256, recorded_sha256=sha256, difference=0.0)

    with pytest.raises(RegistryError, match="was never the champion"):
        rollback.rollback("dae", "no reason", smoke_test, to=REFUSED)
    entry = rollback.rollback("dae", "another reason", smoke_test)
    assert (tested, entry.number, entry.champion) == ([PROMOTED], 4, PROMOTED)
    assert registry.find_champion("dae") == PROMOTED


# Runs


def test_a_recorded_configuration_keeps_its_digest(run_ids: list[str], caplog: pytest.LogCaptureFixture) -> None:
    for run_id in run_ids:
        config = runs.read_config(run_id)
        assert config.digest == connect().get_run(run_id).data.tags["config_digest"]
        assert config.tracking.experiment == "former"
    assert [runs.read_config(run_id).data.extra_source for run_id in run_ids] == [None, "more", None]
    assert [runs.read_config(run_id).gate.smoke_test is None for run_id in run_ids] == [False, True, False]
    assert not runs.read_config(run_ids[0]).gate.beat_noisy_input
    assert [record.message for record in caplog.records] == []


def test_results_and_scores_are_read(run_ids: list[str]) -> None:
    results = [reports.read_result(run_id) for run_id in run_ids]
    assert [result.version.decision.event for result in results] == ["promoted", "refused", "forced"]
    assert results[0].version.decision.verdict.promoted
    assert any("val_mse" in reason for reason in results[1].version.verdict.reasons)
    for run_id, result in zip(run_ids, results, strict=True):
        assert result.run_id == run_id
        text = runs.read_text_artifact(run_id, "scores.json")
        assert text is not None
        assert Scores.model_validate_json(text) == result.scores
        recorded = runs.read_run(run_id)
        assert recorded.commit.startswith("b5659c4")
        assert recorded.scores["best_val_mse"] == pytest.approx(result.scores.validation.pooled.mse, rel=1e-6)
        assert reports.headline(result.version)


def test_a_version_can_be_judged_again(run_ids: list[str]) -> None:
    candidate = registry.get_candidate("dae", REFUSED)
    assert candidate.run_id == run_ids[1]
    assert runs.read_config(candidate.run_id).gate.max_val_mse == 0.000001


@pytest.mark.usefixtures("store")
def test_commands_list_runs_versions_and_history(run_ids: list[str]) -> None:
    listed = json.loads(run_command("runs", "--json"))
    assert [run["verdict"] for run in listed] == ["forced", "refused", "promoted"]
    assert run_command("runs").count("mnist-unet4") == 3
    assert "champion" in run_command("models")
    assert [record["version"] for record in json.loads(run_command("models", "--json"))] == [FORCED, REFUSED, PROMOTED]
    entries = json.loads(run_command("models", "history", "--json"))
    assert [entry["event"] for entry in entries] == ["promoted", "refused", "forced"]
    assert "a reason" in run_command("models", "history")
    assert f"version {FORCED}" in run_command("models", "live")


# Deployments


@pytest.fixture(scope="module")
def deployments(unpacked: Path) -> dict[str, dict[str, Any]]:
    trees = json.loads((unpacked / "deployments.json").read_text())
    return {tree["name"]: tree for tree in trees}


def as_response(
    name: str, parameters: dict[str, Any], parameter_schema: dict[str, Any] | None = None
) -> DeploymentResponse:
    """Return a deployment as a client reads it from a server."""
    fields = {"parameters": parameters, "parameter_openapi_schema": parameter_schema}
    return DeploymentResponse.model_validate({"name": name, "flow_id": uuid4(), **fields})


def errors_of(parameters: dict[str, Any], tree: dict[str, Any]) -> list[str]:
    """Return what a server has against the parameters of a run."""
    return [error.message for error in validate(parameters, tree["parameter_schema"])]


def test_every_deployment_still_finds_its_flow_and_fits_its_parameters(
    deployments: dict[str, dict[str, Any]], store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert {"retrain", "retrain-if-stale", "ci"} <= deployments.keys()
    for tree in deployments.values():
        flow: Flow[..., Any] = load_flow_from_entrypoint(tree["entrypoint"])
        assert errors_of(tree["parameters"], tree) == []
        flow.validate_parameters(tree["parameters"])
    warnings = [record.message for record in caplog.records if record.name.startswith("dae")]
    former = [(section, *names) for section, fields in SECTIONS.items() for names in fields.former_names.items()]
    assert sorted(warnings) == sorted(
        f"configuration: {section}.{old} is now called {section}.{present}" for section, old, present in former
    )


@pytest.mark.usefixtures("store")
def test_a_configuration_fits_the_schema_of_a_former_deployment(deployments: dict[str, dict[str, Any]]) -> None:
    config = PipelineConfig.model_validate({"data": {"extra_source": "incoming"}, "gate": {"smoke_test": None}})
    for name in ("retrain", "ci"):
        tree = deployments[name]
        assert errors_of({"config": config.model_dump(mode="json")}, tree) != []
        deployment = as_response(name, tree["parameters"], tree["parameter_schema"])
        parameters = make_parameters(deployment, config, ["gate.dry_run=true", "gate.beat_noisy_input=false"])
        assert errors_of(parameters, tree) == []
        assert parameters["config"]["data"]["also"] == "incoming"
        assert parameters["config"]["gate"]["works"] is None
        received = PipelineConfig.model_validate(parameters["config"])
        assert (received.data.extra_source, received.gate.smoke_test) == ("incoming", None)
        assert (received.gate.dry_run, received.gate.beat_noisy_input) == (True, False)


@pytest.mark.usefixtures("store")
def test_a_former_deployment_runs_under_its_own_configuration_with_settings(
    deployments: dict[str, dict[str, Any]],
) -> None:
    tree = deployments["retrain"]
    deployment = as_response("retrain", tree["parameters"], tree["parameter_schema"])
    parameters = make_parameters(deployment, None, ["data.extra_source=incoming"])
    assert errors_of(parameters, tree) == []
    expected = PipelineConfig.model_validate(tree["parameters"]["config"])
    received = PipelineConfig.model_validate(parameters["config"])
    assert received.data.extra_source == "incoming"
    assert received.gate == expected.gate


def test_a_present_deployment_gets_present_names() -> None:
    config = PipelineConfig()
    for parameter_schema in (train_denoiser.parameters.model_dump(), None):
        deployment = as_response("retrain", {}, parameter_schema)
        assert fit_to_schema(config, deployment) == config.model_dump(mode="json")
