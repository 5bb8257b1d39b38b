"""Staleness of a champion that was trained a little, from a real registry, on images like its own and on others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from dae import storage
from dae.config.schema import DataConfig, ModelConfig, PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.data.arrays import Block, DataError
from dae.evaluation import scores as scores_module
from dae.maintenance import inventory
from dae.monitoring import new_images, staleness
from dae.monitoring.drift import Drift
from dae.monitoring.staleness import RetrainingRequest, Staleness, StalenessPolicy, check_staleness, decide_retraining
from dae.networks.predict import make_denoiser
from dae.promotion import registry, tables
from dae.schemas import NoisySets, Scores, TrainedModel
from dae.tracking import log_model, models, run_logging
from dae.tracking.client import TrackingError, connect
from dae.tracking.models import ModelError
from dae.tracking.runs import open_run

SIDE = 16
CONFIG = PipelineConfig(
    data=DataConfig(source="own.npy", validation=200, test=40), model=ModelConfig(width=4, deep_width=4)
)
POLICY = StalenessPolicy(min_images=60)
NOW = 1_800_000_000.0
HOUR = 3600.0


def rectangles(count: int, seed: int) -> Block:
    """Return dark images with a bright rectangle each."""
    random = np.random.default_rng(seed)
    images = np.zeros((count, SIDE, SIDE, 1), np.uint8)
    for image in images:
        top, left = random.integers(1, 7, 2)
        height, width = random.integers(4, 9, 2)
        image[top : top + height, left : left + width] = random.integers(150, 256)
    return images


def put(place: Path, images: Block) -> Path:
    place.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(place / f"{number:03}.png")
    return place


def trained(noisy: NoisySets) -> Any:
    """Return a small network that was trained for seconds."""
    import keras

    from dae.networks import build

    keras.utils.set_random_seed(0)
    network = build.build_network(CONFIG.model, (SIDE, SIDE, 1))
    network.compile(keras.optimizers.Adam(0.01), "mse")
    network.optimizer.build(network.trainable_variables)
    assert noisy.train is not None
    damaged, clean, _ = noisy_datasets.read_block(noisy.train, slice(None))
    network.fit(damaged, clean, batch_size=32, epochs=8, verbose=0)
    return network


def make_champion(config: PipelineConfig, network: Any = None, change: Callable[[Scores], Scores] = lambda s: s) -> str:
    """Log a network in a run that records what a training does, and make it the champion; return its version."""
    images = datasets.ingest(config.data)
    noise = config.noise.model_copy(update={"training": "frozen"})
    noisy = noisy_datasets.corrupt_sets(images, noise)
    network = network or trained(noisy)
    with open_run(config, "none") as run_id:
        run_logging.log_inputs(run_id, images, noisy)
        model_id, uri = log_model.log_model(run_id, network, np.zeros((1, SIDE, SIDE, 1), np.float32), "dae")
        scores, _ = scores_module.evaluate_model(make_denoiser(network), noisy, uri)
        run_logging.log_scores(run_id, change(scores))
    figures = {"epochs": 1, "best_epoch": 1, "best_val_mse": 0.1, "parameters": 1, "seconds": 1.0}
    model = TrainedModel.model_validate({"run_id": run_id, "model_id": model_id, "model_uri": uri, **figures})
    version = registry.register(config, model, scores, images.digest, noisy).version
    registry.set_alias("dae", registry.CHAMPION, version)
    return version


@pytest.fixture(scope="session")
def trained_once(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion in it; its model's files stay there."""
    home = tmp_path_factory.mktemp("champion")
    (home / "mlruns").mkdir()
    shutil.copy(migrated, home / "mlruns" / "mlflow.db")
    np.save(home / "own.npy", rectangles(1240, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        make_champion(CONFIG)
    return home


@pytest.fixture
def champion(home: Path, mlflow_store: Path, trained_once: Path) -> str:
    """The champion's version, in a store and a home of the test's own, whose cache is empty."""
    shutil.copy(trained_once / "mlruns" / "mlflow.db", mlflow_store)
    shutil.copy(trained_once / "own.npy", home)
    return "1"


def left(home: Path) -> list[str]:
    return sorted(path.name for path in (home / ".dae").glob("*/*"))


def network_of(version: str) -> Any:
    return models.load_model(f"models:/dae/{version}")


# What is found


@pytest.mark.parametrize("seed", range(2))
def test_on_images_like_its_own_a_champion_stays_fresh_whatever_the_noise(home: Path, champion: str, seed: int) -> None:
    put(home / "incoming", rectangles(100, 100 + seed))
    found = check_staleness(POLICY, seed)
    assert not found.stale
    assert found.version == champion
    assert found.noise
    assert found.images
    assert (found.noise.count, found.images.count) == (200, 100)
    assert abs(found.noise.rise) < 0.15
    assert found.noise.low < found.noise.rise < found.noise.high
    assert decide_retraining(found, None, POLICY, NOW)[0] == "fresh"


def test_other_images_make_it_stale_and_the_reason_says_by_how_much(home: Path, champion: str) -> None:
    put(home / "incoming", 255 - rectangles(100, 1))
    found = check_staleness(POLICY, 0)
    assert found.stale
    assert found.noise
    assert found.images
    assert found.noise.low <= POLICY.limit < found.images.low
    assert found.reasons[1].startswith("new images: MSE 0.")
    assert found.reasons[1].endswith("; above the limit of +20%")
    assert found.reasons[0].endswith("; not shown to be above the limit of +20%")


@pytest.mark.slow
def test_what_was_recorded_is_what_it_is_compared_with_not_what_it_scores_now(home: Path, mlflow_store: Path) -> None:
    def halved(scores: Scores) -> Scores:
        per_kind = {
            kind: quality.model_copy(update={"mse": quality.mse / 2})
            for kind, quality in scores.validation.per_kind.items()
        }
        return scores.model_copy(update={"validation": scores.validation.model_copy(update={"per_kind": per_kind})})

    np.save(home / "own.npy", rectangles(400, 0))
    make_champion(CONFIG, None, halved)
    found = check_staleness(POLICY, 3)
    assert found.stale
    assert found.noise
    assert 0.7 < found.noise.rise < 1.4


def test_the_same_seed_finds_the_same_and_another_seed_draws_other_noise(champion: str) -> None:
    first, again, other = check_staleness(POLICY, 0), check_staleness(POLICY, 0), check_staleness(POLICY, 1)
    assert first == again
    assert first.noise != other.noise


def test_even_the_recorded_seed_draws_noise_the_champion_has_not_seen(champion: str, trained_once: Path) -> None:
    found = check_staleness(POLICY, CONFIG.noise.seed)
    assert found.noise
    assert found.noise.mse != pytest.approx(found.noise.reference, rel=1e-6)


def test_without_a_champion_nothing_is_stale_and_that_is_said(mlflow_store: Path) -> None:
    found = check_staleness(POLICY, 0)
    assert (found.version, found.stale) == (None, False)
    assert decide_retraining(found, None, POLICY, NOW) == ("no champion", "dae has no champion")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda home: None, "there is no folder"),
        (lambda home: (home / "incoming").mkdir(), "must hold 60 images to be judged, and holds none"),
        (
            lambda home: put(home / "incoming", 255 - rectangles(59, 1)),
            "must hold 60 images to be judged, and holds 59",
        ),
    ],
    ids=["no folder", "empty", "too few"],
)
def test_too_few_new_images_are_no_error_and_not_judged(
    home: Path, champion: str, prepare: Callable[[Path], object], words: str
) -> None:
    prepare(home)
    found = check_staleness(POLICY, 0)
    assert (found.stale, found.images, found.images_digest) == (False, None, None)
    assert words in found.reasons[1]


def test_where_no_folder_is_watched_new_noise_is_looked_at_alone(home: Path, champion: str) -> None:
    put(home / "incoming", 255 - rectangles(100, 1))
    found = check_staleness(StalenessPolicy(watch=None), 0)
    assert found.noise
    assert (found.stale, found.images) == (False, None)
    assert "no folder is watched" in found.reasons[1]


def test_files_that_are_being_written_are_left_alone(home: Path, champion: str) -> None:
    incoming = put(home / "incoming", rectangles(60, 1))
    before = check_staleness(POLICY, 0)
    for name in (".a.png", "a.png.part", "a.png.tmp"):
        (incoming / name).write_bytes(b"half an ima")
    assert check_staleness(POLICY, 0) == before


def test_the_digest_of_new_images_is_that_of_their_content(home: Path, champion: str) -> None:
    incoming = put(home / "incoming", rectangles(60, 1))
    first = check_staleness(POLICY, 0).images_digest
    (incoming / "000.png").rename(incoming / "renamed.png")
    assert check_staleness(POLICY, 0).images_digest == first
    put(incoming, rectangles(61, 1)[60:])
    assert check_staleness(POLICY, 0).images_digest != first


# What is refused


def test_a_new_image_that_cannot_be_read_is_named_and_nothing_is_left_in_the_cache(home: Path, champion: str) -> None:
    incoming = put(home / "incoming", rectangles(80, 1))
    (incoming / "031.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"incoming/031\.png: must be a readable image"):
        check_staleness(POLICY, 0)
    assert left(home) == []


@pytest.mark.parametrize("number", [0, 31])
def test_a_new_image_of_another_shape_is_named_with_both_shapes(home: Path, champion: str, number: int) -> None:
    incoming = put(home / "incoming", rectangles(80, 1))
    Image.fromarray(np.zeros((20, 16), np.uint8)).save(incoming / f"{number:03}.png")
    refused = rf"incoming/{number:03}\.png: must be 16x16 with 1 channel; found 20x16 with 1 channel"
    with pytest.raises(DataError, match=refused):
        check_staleness(POLICY, 0)
    assert left(home) == []


def test_a_champion_whose_results_are_not_finite_is_an_error(
    home: Path, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores_module, "compute_errors", lambda denoise, noisy: np.full(noisy.clean.count, np.nan))
    with pytest.raises(ModelError, match=r"what models:/dae/1 makes of some images is not finite"):
        check_staleness(POLICY, 0)
    assert left(home) == []


def test_a_champion_without_recorded_scores_or_images_is_an_error(register_version: Callable[..., Any]) -> None:
    registry.set_alias("dae", registry.CHAMPION, register_version().version)
    with pytest.raises(TrackingError, match=r"run \w+ holds no scores\.json"):
        check_staleness(POLICY, 0)


def test_images_are_cut_where_those_of_the_champion_were(home: Path) -> None:
    put(home / "large", np.tile(rectangles(3, 0), (1, 2, 3, 1)))
    found = new_images.read_new_images("large", 3, (SIDE, SIDE, 1), SIDE, home / "set")
    assert found.images
    np.testing.assert_array_equal(np.load(found.images.path), rectangles(3, 0).repeat(6, axis=0))
    with pytest.raises(DataError, match=r"000\.png: must be 16x16 with 1 channel; found 32x48"):
        new_images.read_new_images("large", 3, (SIDE, SIDE, 1), None, home / "other")
    assert not (home / "other").exists()


# What is left, and what becomes of the images it was scored on


def test_nothing_is_left_in_the_cache(home: Path, champion: str) -> None:
    put(home / "incoming", rectangles(60, 1))
    check_staleness(POLICY, 0)
    assert left(home) == []


def test_what_was_in_the_cache_before_stays_as_it_was(home: Path, champion: str) -> None:
    noisy_datasets.corrupt_sets(datasets.ingest(CONFIG.data), CONFIG.noise)
    before = left(home)
    check_staleness(POLICY, CONFIG.noise.seed)
    assert left(home) == before
    assert len(before) == 3


def test_what_a_killed_check_leaves_is_a_draft_that_gc_knows(home: Path) -> None:
    with storage.scratch_folder("staleness") as work:
        found = inventory.read_folder(work, "noise")
    assert found
    assert found.what == "draft"
    assert not work.exists()


def test_images_that_are_cached_are_looked_at_whatever_became_of_their_source(home: Path, champion: str) -> None:
    before = check_staleness(POLICY, 0)
    datasets.ingest(CONFIG.data)
    (home / "own.npy").unlink()
    assert check_staleness(POLICY, 0) == before


def test_where_the_source_gives_other_images_new_ones_are_judged_alone(home: Path, champion: str) -> None:
    np.save(home / "own.npy", rectangles(500, 9))
    put(home / "incoming", 255 - rectangles(100, 1))
    found = check_staleness(POLICY, 0)
    assert found.noise is None
    assert found.reasons[0] == "new noise: not judged: the validation images of version 1 are no longer available"
    assert found.stale
    assert left(home) == []


@pytest.mark.slow
def test_a_champion_that_is_stale_on_the_very_images_it_was_trained_on_is_not_trained_on_them_again(
    home: Path, champion: str
) -> None:
    incoming = put(home / "incoming", 255 - rectangles(60, 1))
    also = CONFIG.data.model_copy(update={"extra_source": "incoming"})
    network = network_of(champion)
    make_champion(CONFIG.model_copy(update={"data": also}), network)
    found = check_staleness(POLICY.model_copy(update={"watch": str(incoming)}), 0)
    assert (found.version, found.stale, found.trained_on_images) == ("2", True, True)
    last = RetrainingRequest(time=NOW - 1000 * HOUR, version="1", images_digest=found.images_digest)
    outcome, reason = decide_retraining(found, last, POLICY, NOW)
    assert outcome == "known"
    assert reason.startswith("version 2 was trained on exactly these images")
    put(incoming / "later", 255 - rectangles(1, 2))
    found = check_staleness(POLICY, 0)
    assert not found.trained_on_images
    assert decide_retraining(found, last, POLICY, NOW)[0] == "retrain"
    assert found.noise  # though its source, the folder included, gives other images by now: the cache has them


# What follows


def drift(low: float) -> Drift:
    return Drift(mse=0.012, reference=0.01, low=low, high=low + 0.1, count=100)


FRESH, STALE = drift(0.1), drift(0.3)


def found_with(noise: Drift | None, images: Drift | None, digest: str | None = "d") -> Staleness:
    stale = STALE in (noise, images)
    return Staleness(
        model_name="dae",
        version="3",
        noise=noise,
        images=images,
        images_digest=digest,
        stale=stale,
        reasons=("said", "so"),
    )


@pytest.mark.parametrize(
    ("noise", "images", "last", "outcome"),
    [
        (FRESH, FRESH, None, "fresh"),
        (FRESH, None, None, "fresh"),
        (FRESH, FRESH, (1, "3", "d"), "fresh"),
        (STALE, FRESH, None, "retrain"),
        (FRESH, STALE, None, "retrain"),
        (None, STALE, None, "retrain"),
        (FRESH, STALE, (1, "3", "d"), "cooling down"),
        (STALE, None, (71.9, "2", "e"), "cooling down"),
        (STALE, None, (72, "2", "e"), "retrain"),
        (FRESH, STALE, (100, "3", "d"), "known"),
        (None, STALE, (100, "3", "d"), "known"),
        (FRESH, STALE, (100, "3", "e"), "retrain"),
        (FRESH, STALE, (100, "3", None), "retrain"),
        (FRESH, STALE, (100, "2", "d"), "retrain"),
        (STALE, STALE, (100, "3", "d"), "retrain"),
    ],
)
def test_what_follows_from_what_was_found_and_asked_for_before(
    noise: Drift | None, images: Drift | None, last: tuple[float, str, str | None] | None, outcome: str
) -> None:
    fired = RetrainingRequest(time=NOW - last[0] * HOUR, version=last[1], images_digest=last[2]) if last else None
    assert decide_retraining(found_with(noise, images), fired, StalenessPolicy(), NOW)[0] == outcome


def test_a_pause_says_since_when_and_until_when() -> None:
    fired = RetrainingRequest(time=0, version="3", images_digest=None)
    outcome, reason = decide_retraining(found_with(STALE, None), fired, StalenessPolicy(cooldown_hours=36), 35 * HOUR)
    assert outcome == "cooling down"
    assert (
        reason == "a retraining was asked for at 1970-01-01 00:00 UTC; the next one can start at 1970-01-02 12:00 UTC"
    )


@given(
    st.sampled_from([None, FRESH, STALE]), st.sampled_from([None, FRESH, STALE]), st.floats(0, 200), st.floats(0, 200)
)
def test_a_retraining_is_asked_for_only_where_something_is_stale_and_never_within_the_pause(
    noise: Drift | None, images: Drift | None, hours: float, pause: float
) -> None:
    policy = StalenessPolicy(cooldown_hours=pause)
    fired = RetrainingRequest(time=NOW - hours * HOUR, version="3", images_digest="d")
    outcome, _ = decide_retraining(found_with(noise, images), fired, policy, NOW)
    assert (outcome == "fresh") == (STALE not in (noise, images))
    if outcome == "retrain":
        assert noise == STALE
        assert fired.time + pause * HOUR <= NOW


# The record


def test_a_check_is_a_finished_run_of_an_experiment_of_its_own(mlflow_store: Path) -> None:
    run_id = staleness.log_staleness(found_with(FRESH, STALE), "retrain", "flow-run")
    run = connect().get_run(run_id)
    assert connect().get_experiment(run.info.experiment_id).name == "dae staleness"
    assert run.info.status == "FINISHED"
    expected = {"outcome": "retrain", "version": "3", "images_digest": "d", "reasons": "said; so"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["prefect.flow_run_id"] == "flow-run"
    assert run.data.metrics == pytest.approx(
        {
            "noise_mse": 0.012,
            "noise_drift": 0.2,
            "noise_drift_low": 0.1,
            "noise_drift_high": 0.2,
            "images_mse": 0.012,
            "images_drift": 0.2,
            "images_drift_low": 0.3,
            "images_drift_high": 0.4,
        }
    )


def test_the_last_retraining_is_found_among_other_checks_and_other_models(mlflow_store: Path) -> None:
    assert staleness.last_retraining("dae") is None
    nothing = Staleness(model_name="dae", version=None, stale=False, reasons=("dae has no champion",))
    staleness.log_staleness(nothing, "no champion", None)
    assert staleness.last_retraining("dae") is None
    first = staleness.log_staleness(found_with(FRESH, STALE, "first"), "retrain", None)
    second = staleness.log_staleness(found_with(STALE, None, None), "retrain", None)
    staleness.log_staleness(found_with(FRESH, STALE, "third"), "cooling down", None)
    other = found_with(FRESH, STALE, "other").model_copy(update={"model_name": "other"})
    staleness.log_staleness(other, "retrain", None)
    started = connect().get_run(second).info.start_time
    assert first != second
    assert staleness.last_retraining("dae") == RetrainingRequest(time=started / 1000, version="3", images_digest=None)


def test_checks_are_no_rows_of_the_table_of_runs(champion: str) -> None:
    staleness.log_staleness(found_with(FRESH, None), "fresh", None)
    assert len(tables.read_runs()) == 1


def test_a_check_and_what_follows_read_as_markdown() -> None:
    text = staleness.staleness_markdown(found_with(FRESH, STALE), "retrain", "for a reason")
    assert text == "# dae version 3: retrain\n\nfor a reason\n\n- said\n- so\n"


@pytest.mark.parametrize(
    "values",
    [
        {"limit": 0},
        {"limit": True},
        {"confidence": 1},
        {"min_images": 0},
        {"cooldown_hours": -1},
        {"model_name": "a/b"},
        {"watch": ""},
        {"nonsense": 1},
    ],
)
def test_a_policy_refuses_what_makes_no_sense(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        StalenessPolicy.model_validate(values)
