from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dae import random_streams, storage
from dae.config.schema import DataConfig, NoiseConfig, TrainConfig
from dae.data import datasets, noisy_datasets
from dae.data.arrays import MAX_BLOCK, DataError
from dae.noise.kinds import corrupt
from dae.schemas import Images, ImageSet, ImageSets, NoisySet

COUNT = 3 * MAX_BLOCK + 100
PLAIN = TrainConfig(clean_share=0, page_share=0)


def images(home: Path, count: int = 200, channels: int = 1, **config: object) -> ImageSets:
    pixels = np.random.default_rng(3).integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    np.save(home / "a.npy", pixels)
    settings = {"source": str(home / "a.npy"), "validation": 50, "test": 50, **config}
    return datasets.ingest(DataConfig.model_validate(settings))


def noise(**changes: object) -> NoiseConfig:
    return NoiseConfig.model_validate(changes)


RANGES: dict[str, object] = {
    "kinds": [
        {"kind": "gaussian", "variance": {"low": 0.01, "high": 0.2}},
        {"kind": "salt_and_pepper", "amount": {"low": 0.01, "high": 0.2}},
        {"kind": "poisson", "peak": {"low": 4, "high": 256}},
        {"kind": "speckle", "variance": {"low": 0.1, "high": 2}},
    ]
}


def stored(noisy: NoisySet) -> tuple[bytes, bytes]:
    return np.load(noisy.path).tobytes(), np.load(noisy.kinds_path).tobytes()


def noisy_folders(home: Path) -> list[Path]:
    return list((home / ".dae" / "noisy").glob("*"))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_frozen_set_pairs_each_image_with_its_noisy_self_and_its_kind(home: Path, channels: int) -> None:
    validation = noisy_datasets.corrupt_sets(images(home, channels=channels), noise()).validation
    noisy, clean, kinds = noisy_datasets.read_block(validation, slice(None))
    np.testing.assert_array_equal(clean, datasets.read_images(validation.clean))
    assert noisy.dtype == np.float32
    assert noisy.shape == clean.shape
    kinds_there = ("gaussian", "salt_and_pepper", "poisson", "speckle")
    assert validation.kinds == (*kinds_there, *(f"{kind}_8bit" for kind in kinds_there))
    for image, reference, kind in zip(noisy, clean, kinds, strict=True):
        name = validation.kinds[kind].removesuffix("_8bit")
        if name == "salt_and_pepper":
            assert np.isin(image[image != reference], (0, 1)).all()
        elif name == "speckle":
            assert np.all(image[reference == 0] == 0)
        assert not np.array_equal(image, reference)


@pytest.mark.parametrize("rows", [slice(10, 20), np.array([30, 2, 7])])
def test_any_rows_of_a_frozen_set_can_be_read(home: Path, rows: Any) -> None:
    validation = noisy_datasets.corrupt_sets(images(home), noise()).validation
    whole: tuple[Any, ...] = noisy_datasets.read_block(validation, slice(None))
    for every, some in zip(whole, noisy_datasets.read_block(validation, rows), strict=True):
        np.testing.assert_array_equal(every[rows], some)


@pytest.mark.parametrize("config", [noise(), noise(**RANGES)], ids=["numbers", "ranges"])
def test_the_pixels_do_not_depend_on_the_number_of_workers(
    home: Path, monkeypatch: pytest.MonkeyPatch, config: NoiseConfig
) -> None:
    train = images(home, COUNT + 100).train
    found = []
    for workers in (1, 2, 7):
        monkeypatch.setattr(noisy_datasets, "WORKERS", workers)
        found.append(stored(noisy_datasets.freeze_noise(train, config, "train")))
        storage.delete_cached("noisy")
    assert found[0] == found[1] == found[2]


def test_each_block_is_drawn_from_its_own_stream(home: Path) -> None:
    train = images(home, COUNT + 100).train
    noisy, _, kinds = noisy_datasets.read_block(
        noisy_datasets.freeze_noise(train, noise(seed=4, file_share=0), "train"), slice(MAX_BLOCK, 2 * MAX_BLOCK)
    )
    clean = datasets.read_images(train, slice(MAX_BLOCK, 2 * MAX_BLOCK))
    expected, expected_kinds = corrupt(clean, noise().kinds, random_streams.make_stream(4, "noise", "train", 1))
    np.testing.assert_array_equal(noisy, expected)
    np.testing.assert_array_equal(kinds, expected_kinds)


def test_the_digest_pins_every_noisy_byte_and_every_kind(home: Path) -> None:
    validation = noisy_datasets.corrupt_sets(images(home), noise()).validation
    noisy, kinds = np.load(validation.path), np.load(validation.kinds_path)
    assert validation.sha256 == hashlib.sha256(noisy.tobytes() + kinds.tobytes()).hexdigest()
    kinds[3] ^= 1
    assert validation.sha256 != hashlib.sha256(noisy.tobytes() + kinds.tobytes()).hexdigest()


def test_the_same_seed_draws_the_same_pixels_anew(home: Path) -> None:
    sets = images(home)
    first = noisy_datasets.corrupt_sets(sets, noise()).validation
    before = stored(first)
    storage.delete_cached("noisy")
    assert noisy_datasets.corrupt_sets(sets, noise()).validation == first
    assert stored(first) == before


def test_a_second_corruption_finds_the_folders_and_writes_nothing(home: Path) -> None:
    sets = images(home)
    first = noisy_datasets.corrupt_sets(sets, noise())
    before = {path: path.stat().st_mtime_ns for path in (home / ".dae" / "noisy").rglob("*.*")}
    assert noisy_datasets.corrupt_sets(sets, noise()) == first
    assert {path: path.stat().st_mtime_ns for path in (home / ".dae" / "noisy").rglob("*.*")} == before


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"file_share": 1}, {"kinds": [{"kind": "gaussian", "variance": 0.2}]}, RANGES]
)
def test_another_noise_is_another_set(home: Path, change: dict[str, object]) -> None:
    sets = images(home)
    first, other = (noisy_datasets.corrupt_sets(sets, config).validation for config in (noise(), noise(**change)))
    assert first.sha256 != other.sha256
    assert first.path != other.path


def test_validation_test_and_training_noise_are_different_draws(home: Path) -> None:
    same = images(home).validation
    drawn = {noisy_datasets.freeze_noise(same, noise(), split).sha256 for split in ("train", "validation", "test")}
    assert len(drawn) == 3


def test_the_same_bytes_in_another_shape_are_another_set(home: Path) -> None:
    grey = images(home).validation
    wide = grey.model_copy(update={"path": str(home / "wide.npy"), "count": 25, "height": 16})
    np.save(wide.path, np.load(grey.path).reshape(25, 16, 8, 1))
    assert (
        noisy_datasets.freeze_noise(grey, noise(), "validation").path
        != noisy_datasets.freeze_noise(wide, noise(), "validation").path
    )


def test_training_noise_is_stored_only_where_it_is_frozen(home: Path) -> None:
    sets = images(home)
    assert noisy_datasets.corrupt_sets(sets, noise()).train is None
    frozen = noisy_datasets.corrupt_sets(sets, noise(training="frozen")).train
    assert frozen is not None
    assert frozen.clean == sets.train
    assert len(np.load(frozen.path)) == sets.train.count


def test_how_training_noise_is_drawn_does_not_change_the_validation_noise(home: Path) -> None:
    sets = images(home)
    fresh, frozen = (noisy_datasets.corrupt_sets(sets, noise(training=how)) for how in ("fresh", "frozen"))
    assert fresh.validation == frozen.validation


def test_where_validation_is_the_test_set_both_share_one_draw(home: Path) -> None:
    noisy = noisy_datasets.corrupt_sets(images(home, validation="test"), noise())
    assert noisy.validation == noisy.test
    assert len(noisy_folders(home)) == 1


def test_clipped_noise_lies_in_0_to_1(home: Path) -> None:
    noisy = np.load(noisy_datasets.corrupt_sets(images(home), noise(file_share=1)).validation.path)
    assert (noisy.min(), noisy.max()) == (0, 1)


def test_an_error_in_the_middle_leaves_no_folder_behind(home: Path) -> None:
    sets = images(home)
    broken = sets.validation.model_copy(update={"count": 60})  # more than there are
    with pytest.raises(ValueError, match="broadcast"):
        noisy_datasets.freeze_noise(broken, noise(), "validation")
    assert noisy_folders(home) == []


# Fresh noise


def test_fresh_noise_differs_from_pass_to_pass_and_is_the_same_for_the_same_pass(home: Path) -> None:
    train, rows = images(home).train, np.arange(64)
    draws = [noisy_datasets.draw_fresh(train, rows, noise(), PLAIN, lap, 0)[0] for lap in (0, 1, 0)]
    assert not np.array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])


def test_under_ranges_the_images_of_a_block_get_strengths_of_their_own_and_others_in_the_next_pass(home: Path) -> None:
    train, rows, config = images(home).train, np.arange(100), noise(kinds=RANGES["kinds"][:1])  # type: ignore[index]
    spreads = []
    for lap in (0, 1, 0):
        noisy, clean = noisy_datasets.draw_fresh(train, rows, config, PLAIN, lap, 0)
        spreads.append(np.var(noisy - clean, axis=(1, 2, 3)))
    assert spreads[0].min() < 0.02
    assert spreads[0].max() > 0.12
    assert abs(np.corrcoef(spreads[0], spreads[1])[0, 1]) < 0.4
    np.testing.assert_array_equal(spreads[0], spreads[2])


def test_fresh_noise_differs_from_block_to_block_and_from_seed_to_seed(home: Path) -> None:
    train, rows = images(home).train, np.arange(64)
    first, block, seed = (
        noisy_datasets.draw_fresh(train, rows, noise(), PLAIN.model_copy(update={"seed": seed}), 0, block)[0]
        for seed, block in ((0, 0), (0, 1), (1, 0))
    )
    assert not np.array_equal(first, block)
    assert not np.array_equal(first, seed)


def test_fresh_noise_comes_with_the_clean_images_of_the_rows(home: Path) -> None:
    train, rows = images(home).train, np.array([5, 1, 60])
    noisy, clean = noisy_datasets.draw_fresh(train, rows, noise(file_share=1), PLAIN, 0, 0)
    np.testing.assert_array_equal(clean, datasets.read_images(train, rows))
    assert noisy.shape == clean.shape
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_a_share_of_the_training_images_gets_no_noise(home: Path) -> None:
    train, config = images(home, 1000).train, noise(kinds=[{"kind": "gaussian"}])
    rows, spare = np.arange(train.count), PLAIN.model_copy(update={"clean_share": 0.3})
    (noisy, clean), (plain, _) = (noisy_datasets.draw_fresh(train, rows, config, each, 0, 0) for each in (spare, PLAIN))
    np.testing.assert_array_equal(clean, datasets.read_images(train, rows))
    spared = (noisy == clean).all(axis=(1, 2, 3))
    assert spared.mean() == pytest.approx(0.3, abs=0.06)
    np.testing.assert_array_equal(noisy[~spared], plain[~spared])


def test_a_share_of_the_training_images_are_windows_of_pages_of_four(home: Path) -> None:
    train = images(home, 1000).train
    rows, config = np.arange(train.count), PLAIN.model_copy(update={"page_share": 0.5})
    noisy, clean = noisy_datasets.draw_fresh(train, rows, noise(kinds=[{"kind": "poisson", "peak": 1e6}]), config, 0, 0)
    assert np.abs(noisy - clean).max() < 0.01
    whole = datasets.read_images(train, rows)
    windows = np.flatnonzero((clean != whole).any(axis=(1, 2, 3)))
    assert len(windows) / train.count == pytest.approx(0.5, abs=0.07)
    cuts = {_cut_of(whole, clean[window]) for window in windows[:50]}
    assert None not in cuts
    assert len(cuts) > 20


def _cut_of(whole: Images, window: Images) -> tuple[int, int] | None:
    """Where the four images of a window meet: the parts above left and below right of it are corners of images."""
    for top in range(8):
        for left in range(8):
            ends = (whole[:, top:, left:] == window[: 8 - top, : 8 - left]).all(axis=(1, 2, 3)).any()
            starts = (whole[:, :top, :left] == window[8 - top :, 8 - left :]).all(axis=(1, 2, 3)).any()
            if ends and starts:
                return top, left
    return None


def test_each_pass_visits_every_image_once_in_an_order_of_its_own(home: Path) -> None:
    some = images(home, COUNT + 100).train
    first, again, second = (np.concatenate(list(noisy_datasets.iterate_shuffled(some, 0, lap))) for lap in (0, 0, 1))
    np.testing.assert_array_equal(np.sort(first), np.arange(COUNT))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == second) < 0.01


# Verification


def flip(path: str) -> None:
    content = bytearray(Path(path).read_bytes())
    content[-1] ^= 1
    Path(path).write_bytes(content)


def test_an_untouched_set_passes_verification(home: Path) -> None:
    validation = noisy_datasets.corrupt_sets(images(home), noise()).validation
    noisy_datasets.verify_noisy_set(validation)
    with pytest.raises(DataError, match="pixels must have SHA-256"):
        noisy_datasets.verify_noisy_set(validation.model_copy(update={"sha256": "0" * 64}))


@pytest.mark.parametrize("which", ["noisy", "kinds", "clean"])
def test_a_single_flipped_bit_is_found(home: Path, which: str) -> None:
    noisy = noisy_datasets.corrupt_sets(images(home), noise()).validation
    path = {"noisy": noisy.path, "kinds": noisy.kinds_path, "clean": noisy.clean.path}[which]
    flip(path)
    named = noisy.path if which == "kinds" else path
    with pytest.raises(DataError, match=f"{Path(named).parent.name}/{Path(named).name}: pixels must have SHA-256"):
        noisy_datasets.verify_noisy_set(noisy)


@pytest.mark.parametrize("which", ["noisy", "kinds", "clean"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_file_that_is_missing_or_cut_short_is_found(home: Path, which: str, damage: str) -> None:
    noisy = noisy_datasets.corrupt_sets(images(home), noise()).validation
    path = Path({"noisy": noisy.path, "kinds": noisy.kinds_path, "clean": noisy.clean.path}[which])
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-7])
    with pytest.raises(DataError, match=r"must hold the stored noisy set|must have SHA-256"):
        noisy_datasets.verify_noisy_set(noisy)


def test_a_record_of_a_set_says_its_shape() -> None:
    record = ImageSet(path="a.npy", sha256="0", count=5, height=9, width=8, channels=3)
    assert record.shape == (9, 8, 3)
