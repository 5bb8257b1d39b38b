"""A version tried in a clean process: a real registry, a real process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from dae import storage
from dae.config.schema import ModelConfig, SmokeTestPolicy
from dae.networks import autoencoder, build
from dae.promotion import gate, registry, smoke_test
from dae.promotion.schemas import Candidate, SmokeTestResult
from dae.tracking import models

Register = Callable[..., Candidate]


def failed(result: SmokeTestResult) -> list[str]:
    return [check.name for check in (gate.check_loads(result), *gate.check_unchanged(result)) if not check.passed]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder as it is logged: the network and the outputs it gave."""
    model = build.build_network(ModelConfig(width=4, deep_width=4), (8, 8, 1))
    noisy = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    (tmp_path / "data").mkdir()
    model.save(tmp_path / storage.MODEL)
    np.savez(tmp_path / storage.REFERENCE, noisy=noisy, restored=model.predict_on_batch(noisy))
    return tmp_path


@pytest.mark.slow
def test_a_registered_version_works_in_a_process_of_its_own(register_version: Register) -> None:
    candidate = register_version()
    result = smoke_test.run_smoke_test(candidate.name, candidate.version)
    assert failed(result) == []
    assert result.sha256 == result.recorded_sha256 == registry.get_version("dae", "1").tags["model_sha256"]
    assert result.difference is not None
    assert result.difference <= 1e-6
    assert result.other_size is None
    path = models.download_model(candidate.model_uri) / storage.MODEL
    assert result.file_mib == path.stat().st_size / 2**20
    assert result.latency_ms is not None
    assert result.latency_ms > 0
    assert result.memory_mib is not None
    assert 100 < result.memory_mib < 8000


def test_a_damaged_file_is_what_is_wrong_with_the_version(folder: Path) -> None:
    (folder / storage.MODEL).write_bytes(b"no model")
    result = smoke_test.examine_model(folder)
    assert result.error is not None
    assert result.sha256 == storage.file_sha256(folder / storage.MODEL)
    assert failed(result)[0] == "loads"


def test_a_process_that_dies_is_an_error_and_says_nothing_of_the_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    with pytest.raises(smoke_test.SmokeTestError, match="ended with exit code 1"):
        smoke_test._run(folder)


def test_a_smoke_test_that_takes_too_long_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_test, "TIMEOUT", 0.1)
    with pytest.raises(smoke_test.SmokeTestError, match="not done after"):
        smoke_test._run(folder)


def test_a_version_that_is_not_there_is_an_error(register_version: Register) -> None:
    candidate = register_version()
    with pytest.raises(registry.RegistryError, match="dae has no version 9"):
        smoke_test.run_smoke_test(candidate.name, "9")


def test_other_weights_give_other_outputs(folder: Path) -> None:
    assert (
        failed(
            smoke_test.examine_model(folder).model_copy(
                update={"recorded_sha256": storage.file_sha256(folder / storage.MODEL)}
            )
        )
        == []
    )
    model = keras.saving.load_model(folder / storage.MODEL)
    model.set_weights([weight + 0.01 for weight in model.get_weights()])
    model.save(folder / storage.MODEL)
    result = smoke_test.examine_model(folder)
    assert result.difference is not None
    assert result.difference > 1e-4
    assert failed(result) == ["checksum", "outputs"]


def test_a_network_of_one_size_says_so(folder: Path) -> None:
    model = autoencoder.build_autoencoder()
    noisy = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    model.save(folder / storage.MODEL)
    np.savez(folder / storage.REFERENCE, noisy=noisy, restored=model.predict_on_batch(noisy))
    result = smoke_test.examine_model(folder)
    assert result.one_image is None
    assert "images of 1x37x33x1" in str(result.other_size)
    checks = {check.name: check.passed for check in gate._smoke_test(result, SmokeTestPolicy())}
    assert not checks["other_size"]


def test_outputs_that_are_no_numbers_or_of_another_shape_are_seen(folder: Path) -> None:
    inputs = keras.Input((None, None, 1))
    for outputs, words in [
        (inputs / 0.0 * 0.0, "no finite numbers"),
        (keras.layers.MaxPooling2D(2)(inputs), "come back as 1x4x4x1"),
    ]:
        keras.Model(inputs, outputs).save(folder / storage.MODEL)
        result = smoke_test.examine_model(folder)
        assert words in str(result.one_image)
        assert "loads" in failed(result)


def test_outputs_that_cannot_be_compared_with_those_on_record_are_not_taken_for_missing_ones(folder: Path) -> None:
    with np.load(folder / storage.REFERENCE) as stored:
        noisy = stored["noisy"]
    np.savez(folder / storage.REFERENCE, noisy=noisy, restored=np.zeros((3, 5, 5, 1), np.float32))
    result = smoke_test.examine_model(folder)
    assert result.difference == np.inf
    assert result.one_image is None
    assert SmokeTestResult.model_validate_json(json.dumps(result.model_dump(mode="json"))) == result
    assert failed(result) == ["checksum", "outputs"]


def test_a_model_that_would_run_code_is_not_loaded(folder: Path) -> None:
    inputs = keras.Input((8, 8, 1))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x)(inputs)).save(folder / storage.MODEL)
    assert "Lambda" in str(smoke_test.examine_model(folder).error)


def test_a_version_without_a_record_of_its_outputs_is_told(folder: Path) -> None:
    (folder / storage.REFERENCE).unlink()
    result = smoke_test.examine_model(folder)
    assert result.difference is None
    assert result.one_image is None
    assert failed(result) == ["checksum", "outputs"]
    shutil.rmtree(folder / "data")
    assert smoke_test.examine_model(folder).error is not None
