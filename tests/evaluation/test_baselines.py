from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from dae.config.schema import ConfigError, DataConfig, PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.evaluation import baseline_runs as runs
from dae.evaluation import baselines, metrics, tables
from dae.evaluation.baselines import BaselineResult, SampleSizes
from dae.evaluation.classical import Median, Method, NoisyInput, TotalVariation
from dae.evaluation.tables import kind_label
from dae.schemas import Images, ImageSets, NoisySets
from dae.tracking.client import connect

CONFIG = PipelineConfig(data=DataConfig(limit=200, validation=100, test_limit=120))
SMALL = SampleSizes(tune=16, images=24)
Sets = tuple[ImageSets, NoisySets]


@pytest.fixture
def sets() -> Sets:
    images = datasets.ingest(CONFIG.data)
    return images, noisy_datasets.corrupt_sets(images, CONFIG.noise)


def ignore(_: int) -> None:
    pass


def test_a_sample_is_spread_over_the_kinds_in_their_proportion(sets: Sets) -> None:
    kinds = np.load(sets[1].test.kinds_path)
    rows = baselines.sample_rows(sets[1].test, 24)
    assert len(np.unique(rows)) == 24
    share = np.bincount(kinds[rows], minlength=8) / 24 - np.bincount(kinds, minlength=8) / 120
    assert np.abs(share).max() < 1.5 / 24
    np.testing.assert_array_equal(baselines.sample_rows(sets[1].test, 10_000), np.arange(120))


def test_tuning_finds_the_best_of_the_grid_on_validation_images(sets: Sets) -> None:
    noisy = sets[1].validation
    rows = baselines.sample_rows(noisy, 40)
    grid: list[Method] = [Median(), TotalVariation(weight=0.02), TotalVariation(weight=0.2), Median(size=7)]
    blind, oracle = baselines.tune(grid, noisy, rows, ignore)
    damaged, clean, kinds = noisy_datasets.read_block(noisy, rows)
    errors = {setting: metrics.mse(setting(damaged), clean) for setting in grid}
    assert blind == (min(grid, key=lambda each: errors[each].mean()),) * 8
    for kind in range(8):
        assert oracle[kind] == min(grid, key=lambda each: errors[each][kinds == kind].mean())
    assert len(set(oracle)) > 1


def test_a_kind_without_images_gets_the_setting_that_is_best_over_all(sets: Sets) -> None:
    noisy = sets[1].validation
    rows = np.flatnonzero(np.load(noisy.kinds_path) == 1)[:5]
    blind, oracle = baselines.tune([Median(), TotalVariation()], noisy, rows, ignore)
    assert oracle == blind == (Median(),) * 8


def test_a_method_is_scored_blind_and_told_on_the_frozen_pixels(sets: Sets) -> None:
    done: list[int] = []
    blind, oracle = baselines.run_baseline("median", sets[1], SMALL, done.append)
    assert (blind.oracle, oracle.oracle) == (False, True)
    assert len(set(blind.settings)) == 1
    rows = baselines.sample_rows(sets[1].test, 24)
    damaged, clean, _ = noisy_datasets.read_block(sets[1].test, rows)
    assert blind.scores.test.pooled.mse == pytest.approx(metrics.mse(blind.settings[0](damaged), clean).mean())
    assert oracle.scores.validation.pooled.mse < blind.scores.validation.pooled.mse
    assert blind.scores.test.pooled_nothing == oracle.scores.test.pooled_nothing
    assert sum(done) <= baselines.count_work("median", SMALL)


def test_no_method_is_tuned_on_test_images() -> None:
    config = CONFIG.model_copy(update={"data": DataConfig(validation="test")})
    with pytest.raises(ConfigError, match=r"data\.validation must hold images of its own to tune methods on"):
        baselines.require_methods(["median"], config)


@pytest.mark.parametrize("size", [SampleSizes(tune=7, images=24), SampleSizes(tune=16, images=7)])
def test_fewer_images_than_kinds_of_noise_are_refused(size: SampleSizes) -> None:
    with pytest.raises(ConfigError, match=r"median must be .* one image for each of 8 kinds .*, received \d+ and \d+"):
        baselines.require_sample_sizes({"median": size}, CONFIG)
    baselines.require_sample_sizes({"median": SMALL}, CONFIG)


def test_doing_nothing_needs_no_tuning(sets: Sets) -> None:
    (only,) = baselines.run_baseline("noisy_input", sets[1], SMALL)
    assert (only.oracle, only.tuned_on, set(only.settings)) == (False, 0, {NoisyInput()})
    assert only.scores.test.pooled == only.scores.test.pooled_nothing


def test_a_model_is_scored_on_the_same_images(sets: Sets) -> None:
    def halved(noisy: Images) -> Images:
        return np.clip(noisy, 0, 1) / np.float32(2)

    scored = baselines.score_model("halved", halved, sets[1], SMALL)
    (nothing,) = baselines.run_baseline("noisy_input", sets[1], SMALL)
    assert scored.scores.test.pooled_nothing == nothing.scores.test.pooled
    assert scored.scores.test.pooled.mse > 0


@pytest.mark.usefixtures("mlflow_store")
def test_a_baseline_is_a_run_with_the_metrics_of_a_model(sets: Sets) -> None:
    images, noisy = sets
    for contender in baselines.run_baseline("median", noisy, SMALL):
        run_id = runs.log_baseline(contender, CONFIG, images, noisy, 1.0)
        run = connect().get_run(run_id)
        assert run.info.status == "FINISHED"
        assert run.info.run_name == ("mnist-median-oracle" if contender.oracle else "mnist-median")
        assert (run.data.tags["kind"], run.data.tags["data_digest"]) == ("baseline", images.digest)
        assert run.data.metrics["test_mse_poisson"] == contender.scores.test.per_kind["poisson"].mse
        assert {"best_val_mse", "test_mse", "test_psnr", "test_ssim", "images_per_second"} <= run.data.metrics.keys()
        name = "median.poisson.size" if contender.oracle else "median.size"
        assert run.data.params[name] == str(contender.settings[2].model_dump()["size"])
        assert (run.data.params["tuned_on"], run.data.params["test_images"]) == ("16", "24")
        assert run.data.params["noise.kinds.gaussian.variance"] == "0.1"
        assert [file.path for file in connect().list_artifacts(run_id, "figures")] == ["figures/overview.png"]


def test_the_tables_say_which_setting_was_for_what(sets: Sets) -> None:
    def all_of_them() -> Iterator[BaselineResult]:
        for name in ("noisy_input", "median"):
            yield from baselines.run_baseline(name, sets[1], SMALL)

    kinds = sets[1].test.kinds
    found = list(all_of_them())
    drawn, filed = tables.baseline_tables(found, kinds)
    for title, head, lines in (drawn, filed):
        assert title in ("Test MSE, noise as drawn", "Test MSE, noise as in 8-bit files")
        assert head[2:6] == ("gaussian", "salt and pepper", "poisson", "speckle")
        assert [line[0] for line in lines] == ["noisy_input", "median", "median, oracle"]
        assert all(len(line) == len(head) for line in lines)
    assert [int(one[1]) + int(other[1]) for one, other in zip(drawn[2], filed[2], strict=True)] == [24] * 3
    settings = list(tables.baseline_settings(found, kinds))
    assert [line[:2] for line in settings] == [
        ("median", "all"),
        *(("median, oracle", kind_label(k)) for k in kinds),
    ]


def test_an_unknown_method_and_a_missing_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--methods must be among noisy_input, median, .*, received magic"):
        baselines.require_methods(["median", "magic"], CONFIG)
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(
        ConfigError, match=r"bm3d needs the package bm3d, which is for non-profit use alone: make .*setup-dev; or leave"
    ):
        baselines.require_methods(["bm3d"], CONFIG)
    assert "bm3d" not in baselines.available_methods()
    assert "median" in baselines.available_methods()
