from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from dae import storage
from dae.config.schema import ModelConfig, PipelineConfig
from dae.networks import build
from dae.promotion import registry
from dae.promotion.schemas import Candidate
from dae.tracking import log_model, models
from dae.tracking.client import connect
from dae.tracking.runs import open_run

Register = Callable[..., Candidate]


def test_a_new_version_is_the_challenger_and_not_judged_yet(register_version: Register) -> None:
    assert registry.find_champion("dae") is None
    first, second = register_version(), register_version()
    assert (first.version, second.version) == ("1", "2")
    assert registry.list_aliases("dae") == {"challenger": "2"}
    assert registry.find_champion("dae") is None
    assert [str(found.version) for found in registry.list_versions("dae")] == ["2", "1"]
    assert registry.get_candidate("dae", "1") == first


def test_a_version_says_what_it_is(register_version: Register) -> None:
    candidate = register_version(mse=0.002)
    found = registry.get_version("dae", candidate.version)
    assert (found.run_id, found.source) == (candidate.run_id, candidate.model_uri)
    assert found.tags["verdict"] == "pending"
    assert found.tags["data_digest"] == "d" * 64
    assert found.tags["noise_digest.validation"] == "n" * 64
    assert found.tags["config_digest"] == PipelineConfig().digest
    assert float(found.tags["best_val_mse"]) == float(found.tags["val_mse_gaussian"]) == 0.002
    folder = models.download_model(f"models:/dae/{candidate.version}")
    assert found.tags["model_sha256"] == storage.file_sha256(folder / storage.MODEL)


def test_a_version_holds_the_outputs_it_gave_when_it_was_logged(register_version: Register) -> None:
    candidate = register_version()
    with np.load(models.download_model(candidate.model_uri) / storage.REFERENCE) as reference:
        again = models.load_model(candidate.model_uri).predict_on_batch(reference["noisy"])
        np.testing.assert_allclose(again, reference["restored"], atol=1e-6)


@pytest.mark.parametrize("number", ["02", "1"])
def test_a_version_has_one_name(register_version: Register, number: str) -> None:
    register_version(), register_version()
    assert registry.get_candidate("dae", number).version == str(int(number))
    with pytest.raises(registry.RegistryError, match="is a whole number"):
        registry.get_candidate("dae", f"+{number}")


def test_a_resumed_run_takes_the_place_of_its_version_that_was_never_judged(register_version: Register) -> None:
    register_version(), register_version()
    assert [found.tags["verdict"] for found in registry.list_versions("dae")] == ["pending", "superseded"]


def test_scores_of_another_model_register_nothing(register_version: Register) -> None:
    with pytest.raises(registry.RegistryError, match="must be those of"):
        register_version(scored="models:/m-other")
    assert connect().search_registered_models() == []


def test_aliases_are_moved_and_removed_and_read_back(register_version: Register) -> None:
    register_version(), register_version()
    for version in ("1", "2", None, None, "1"):
        registry.set_alias("dae", registry.CHAMPION, version)
        assert registry.find_champion("dae") == version
    with pytest.raises(MlflowException):
        registry.set_alias("dae", registry.CHAMPION, "9")
    assert registry.find_champion("dae") == "1"


@pytest.mark.usefixtures("mlflow_store")
def test_what_is_not_there_is_none_or_said_so() -> None:
    assert registry.find_champion("dae") is None
    assert registry.list_aliases("dae") == {}
    assert registry.list_versions("dae") == []
    assert not registry.version_exists("dae", "1")
    with pytest.raises(registry.RegistryError, match="dae has no version 1 at sqlite"):
        registry.get_candidate("dae", "1")


def test_a_registry_that_cannot_be_read_is_an_error_and_not_one_without_a_champion(
    register_version: Register, mlflow_store: Path
) -> None:
    registry.set_alias("dae", registry.CHAMPION, register_version().version)
    mlflow_store.write_bytes(b"no database" * 1000)
    for question in (registry.find_champion, registry.list_aliases, registry.list_versions):
        with pytest.raises(MlflowException):
            question("dae")


@pytest.mark.usefixtures("mlflow_store")
def test_a_model_whose_files_are_gone_or_damaged_cannot_be_loaded() -> None:
    with open_run(PipelineConfig(), "none") as run_id:
        network = build.build_network(ModelConfig(width=4, deep_width=4), (8, 8, 1))
        _, uri = log_model.log_model(run_id, network, np.zeros((1, 8, 8, 1), np.float32), "dae")
    folder = models.download_model(uri)
    (folder / storage.MODEL).write_bytes(b"no model")
    with pytest.raises(models.ModelError, match="cannot be loaded"):
        models.load_model(uri)
    shutil.rmtree(folder)
    with pytest.raises(models.ModelError, match="are gone"):
        models.load_model(uri)
