from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dae import storage
from dae.config.schema import DataConfig, PipelineConfig, add_former_defaults
from dae.data import datasets, sources
from dae.data.arrays import Block, DataError, images_per_block
from dae.data.datasets import ingest
from dae.schemas import ImageSet, ImageSets

SPLITS = ("train", "validation", "test")


def numbered(count: int, channels: int = 1, side: int = 8) -> Block:
    """Return images that can be told apart: image i is filled with i."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(side, 1).repeat(side, 2).repeat(channels, 3)


def stored(folder: Path, count: int = 40, name: str = "a.npy") -> str:
    np.save(folder / name, numbered(count))
    return str(folder / name)


def config(source: str | Path, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"source": str(source), "validation": 10, **changes})


def numbers(images: ImageSet) -> list[int]:
    """Return which of the numbered images a split holds."""
    return [int(value) for value in np.load(images.path)[:, 0, 0, 0]]


def left_in_cache(home: Path) -> list[Path]:
    return list((home / ".dae" / "images").glob("*"))


def splits(sets: ImageSets) -> list[ImageSet]:
    return [sets.train, sets.validation, sets.test]


def test_the_splits_share_no_image_and_leave_none_out(home: Path) -> None:
    sets = ingest(config(stored(home), test=7))
    found = [numbers(part) for part in splits(sets)]
    assert [len(part) for part in found] == [23, 10, 7]
    assert sorted(itertools.chain(*found)) == list(range(40))


def test_held_out_images_are_drawn_by_seed(home: Path) -> None:
    source = stored(home)
    first, other = (numbers(ingest(config(source, seed=seed)).validation) for seed in (0, 1))
    assert first != other
    assert first != list(range(10))


@given(st.integers(3, 60), st.integers(1, 30), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=25)
def test_any_feasible_split_is_exact_and_any_other_is_refused(
    count: int, validation: int, test: int, seed: int
) -> None:
    folder = storage.project_home()
    wanted = config(stored(folder, count, f"{count}.npy"), validation=validation, test=test, seed=seed)
    if validation + test < count:
        sizes = [part.count for part in splits(ingest(wanted))]
        assert sizes == [count - validation - test, validation, test]
    else:
        with pytest.raises(DataError, match=rf"/{count}\.npy: data\.(validation|test) = "):
            ingest(wanted)


def test_a_share_holds_out_so_much_of_the_whole(home: Path) -> None:
    sets = ingest(config(stored(home), validation=0.25, test=0.1))
    assert [part.count for part in splits(sets)] == [26, 10, 4]


def test_test_images_default_to_as_many_as_validation(home: Path) -> None:
    assert [part.count for part in splits(ingest(config(stored(home))))] == [20, 10, 10]


def test_the_sources_own_test_images_are_the_test_set_and_none_is_drawn(home: Path) -> None:
    np.savez(home / "a.npz", x_train=numbered(30), x_test=numbered(5) + np.uint8(100))
    with pytest.raises(
        DataError, match=r"data\.test is for a source without test images of its own; found data.test = 3"
    ):
        ingest(config(home / "a.npz", test=3))
    sets = ingest(config(home / "a.npz"))
    assert numbers(sets.test) == [100, 101, 102, 103, 104]
    assert sets.train.count + sets.validation.count == 30


def test_validation_on_the_test_images_trains_on_all_the_others(home: Path) -> None:
    np.savez(home / "a.npz", x_train=numbered(30), x_test=numbered(5) + np.uint8(100))
    sets = ingest(config(home / "a.npz", validation="test"))
    assert sets.validation == sets.test
    assert numbers(sets.test) == [100, 101, 102, 103, 104]
    assert numbers(sets.train) == list(range(30))


def test_validation_on_test_images_needs_test_images(home: Path) -> None:
    source = stored(home)
    with pytest.raises(
        DataError, match=r"data.validation = test, a source without test images needs data.test; found none"
    ):
        ingest(config(source, validation="test"))
    assert ingest(config(source, validation="test", test=5)).validation.count == 5


def test_test_images_may_come_from_another_source(home: Path) -> None:
    np.save(home / "b.npy", numbered(4) + np.uint8(100))
    assert numbers(ingest(config(stored(home), test_source=str(home / "b.npy"))).test) == [100, 101, 102, 103]


def test_limits_keep_the_first_images(home: Path) -> None:
    np.savez(home / "a.npz", x_train=numbered(30), x_test=numbered(9) + np.uint8(100))
    sets = ingest(config(home / "a.npz", limit=20, test_limit=4))
    assert sorted(numbers(sets.train) + numbers(sets.validation)) == list(range(20))
    assert numbers(sets.test) == [100, 101, 102, 103]


def test_the_default_split_of_mnist_is_55000_5000_10000() -> None:
    sets = ingest(DataConfig())
    assert [part.count for part in splits(sets)] == [55_000, 5_000, 10_000]
    assert {part.shape for part in splits(sets)} == {(28, 28, 1)}
    with np.load(sources.MNIST) as arrays:
        np.testing.assert_array_equal(np.load(sets.test.path)[..., 0], arrays["x_test"])


# What is stored


@pytest.mark.parametrize("channels", [1, 3])
def test_a_set_is_uint8_on_disk_with_its_shape_and_a_digest_over_every_byte(home: Path, channels: int) -> None:
    np.save(home / "a.npy", numbered(30, channels))
    for part in splits(ingest(config(home / "a.npy"))):
        pixels = np.load(part.path, mmap_mode="r")
        assert pixels.dtype == np.uint8
        assert pixels.shape == (part.count, *part.shape)
        assert part.shape == (8, 8, channels)
        assert part.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_images_are_read_as_float32_in_0_to_1(home: Path) -> None:
    np.save(home / "a.npy", np.arange(256, dtype=np.uint8).reshape(4, 8, 8))
    train = ingest(config(home / "a.npy", validation=1)).train
    raw = np.load(train.path)
    for rows in (slice(None), slice(1, 2), np.array([1, 0])):
        found = datasets.read_images(train, rows)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, raw[rows] / np.float32(255))


def test_the_folder_holds_nothing_but_the_sets_and_the_manifest(home: Path) -> None:
    folder = Path(ingest(config(stored(home))).train.path).parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "test.npy",
        "train.npy",
        "validation.npy",
    ]
    assert left_in_cache(home) == [folder]


def test_a_second_ingest_finds_the_folder_and_writes_nothing(home: Path) -> None:
    source = stored(home)
    first = ingest(config(source))
    folder = Path(first.train.path).parent
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert ingest(config(source)) == first
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert left_in_cache(home) == [folder]


def test_the_same_bytes_elsewhere_are_the_same_data(home: Path) -> None:
    first = ingest(config(stored(home)))
    (home / "elsewhere").mkdir()
    assert ingest(config(stored(home / "elsewhere"))).train == first.train


@pytest.mark.parametrize("change", [{"seed": 1}, {"validation": 11}, {"test": 3}, {"limit": 30}])
def test_another_configuration_is_another_folder(home: Path, change: dict[str, object]) -> None:
    source = stored(home)
    assert ingest(config(source)).digest != ingest(config(source, **change)).digest


def test_other_pixels_are_another_folder(home: Path) -> None:
    first = ingest(config(stored(home)))
    changed = numbered(40)
    changed[39, 7, 7, 0] ^= 1
    np.save(home / "a.npy", changed)
    assert ingest(config(home / "a.npy")).digest != first.digest


def test_images_moved_from_training_to_test_are_another_folder(home: Path) -> None:
    for folder, names in (("all", "abcdef"), ("some", "abcd"), ("rest", "ef")):
        (home / folder).mkdir()
        for name in names:
            Image.fromarray(numbered(7)["abcdef".index(name), ..., 0]).save(home / folder / f"{name}.png")
    together = ingest(config(home / "all", validation=1))
    apart = ingest(config(home / "some", validation=1, test_source=str(home / "rest")))
    assert apart.test.count == 2
    assert apart.digest != together.digest


def test_a_damaged_folder_is_refused_with_the_remedy(home: Path) -> None:
    source = stored(home)
    path = Path(ingest(config(source)).test.path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=f"{path.parent.name}: must hold what ingest stored; delete the folder"):
        ingest(config(source))
    (path.parent / "manifest.json").unlink()
    with pytest.raises(DataError, match=f"{path.parent.name}: must hold what ingest stored"):
        ingest(config(source))


# Errors leave nothing behind


def test_bad_training_images_leave_nothing_in_the_cache(home: Path) -> None:
    path = Path(stored(home))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a.npy: must hold the 40 images.*truncated"):
        ingest(config(path))
    assert left_in_cache(home) == []


def test_bad_test_images_leave_nothing_in_the_cache(home: Path) -> None:
    np.savez(home / "a.npz", x_train=numbered(30), x_test=np.full((5, 8, 8), np.nan))
    with pytest.raises(DataError, match=r"a.npz/x_test: float pixels must be finite"):
        ingest(config(home / "a.npz"))
    assert left_in_cache(home) == []


def test_test_images_of_another_shape_are_refused(home: Path) -> None:
    np.savez(home / "a.npz", x_train=numbered(30), x_test=numbered(5, side=9))
    with pytest.raises(DataError, match=r"test images must be \(8, 8, 1\).*found \(9, 9, 1\)"):
        ingest(config(home / "a.npz"))
    assert left_in_cache(home) == []


@pytest.mark.parametrize("wanted", [{"validation": 40}, {"validation": 400}, {"validation": 0.99}, {"test": 30}])
def test_holding_out_all_there_is_or_more_is_refused(home: Path, wanted: dict[str, object]) -> None:
    name, value = next(iter(wanted.items()))
    with pytest.raises(
        DataError, match=rf"/a\.npy: data.{name} = {value} must leave images .*; found \d+ images to draw from"
    ):
        ingest(config(stored(home), **wanted))
    assert left_in_cache(home) == []


def test_a_source_without_an_image_is_refused(home: Path) -> None:
    np.save(home / "a.npy", np.zeros((0, 8, 8), np.uint8))
    with pytest.raises(DataError, match=r"/a\.npy: must hold at least one image; found none"):
        ingest(config(home / "a.npy"))
    assert left_in_cache(home) == []


def test_an_interruption_in_the_middle_leaves_nothing_in_the_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path) -> Iterator[Block]:
        yield numbered(4)
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "_npy_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest(config(stored(home)))
    assert left_in_cache(home) == []


# Folders


def save_pictures(folder: Path, count: int, side: int, first: int = 0) -> None:
    folder.mkdir()
    for number in range(count):
        pixels = numbered(count, side=side)[number, ..., 0] + np.uint8(first)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


def test_a_folder_of_images_is_ingested_whole(home: Path) -> None:
    save_pictures(home / "scans", 30, 8)
    sets = ingest(config(home / "scans"))
    assert sets.source == "scans"
    assert sorted(itertools.chain(*(numbers(part) for part in splits(sets)))) == list(range(30))


@pytest.mark.parametrize("seed", range(3))
def test_the_patches_of_one_file_never_straddle_two_splits(home: Path, seed: int) -> None:
    save_pictures(home / "scans", 12, 35)
    sets = ingest(config(home / "scans", patch=8, validation=20, test=0.2, seed=seed))
    files = [set(numbers(part)) for part in splits(sets)]
    assert sum(len(part) for part in files) == len(set.union(*files)) == 12
    assert all(numbers(part).count(file) == 16 for part in splits(sets) for file in numbers(part))


def test_at_least_as_many_patches_are_held_out_as_asked_for(home: Path) -> None:
    save_pictures(home / "scans", 6, 16)
    sets = ingest(config(home / "scans", patch=8, validation=5, test=4))
    assert [part.count for part in splits(sets)] == [12, 8, 4]


def test_patches_of_a_single_file_cannot_be_split(home: Path) -> None:
    save_pictures(home / "scans", 1, 64)
    with pytest.raises(DataError, match=r"must leave images \(of other files, where they are cut\) to train on"):
        ingest(config(home / "scans", patch=8))
    assert left_in_cache(home) == []


# Images that are added


def test_additional_images_follow_those_of_the_source_and_are_drawn_from_like_them(home: Path) -> None:
    save_pictures(home / "more", 12, 8, first=100)
    sets = ingest(config(stored(home), extra_source="more", validation=20, test=10))
    assert sets.source == "a and more"
    assert sorted(itertools.chain(*(numbers(part) for part in splits(sets)))) == [*range(40), *range(100, 112)]
    assert all(max(numbers(part)) >= 100 for part in splits(sets))


def test_a_limit_cuts_the_sources_own_images_alone(home: Path) -> None:
    save_pictures(home / "more", 12, 8, first=100)
    sets = ingest(config(stored(home), extra_source="more", limit=15))
    assert sorted(itertools.chain(*(numbers(part) for part in splits(sets)))) == [*range(15), *range(100, 112)]


def test_the_sources_own_test_images_stay_the_test_set_beside_additional_ones(home: Path) -> None:
    save_pictures(home / "more", 12, 8, first=100)
    np.savez(home / "a.npz", x_train=numbered(30), x_test=numbered(5) + np.uint8(200))
    sets = ingest(config(home / "a.npz", extra_source=str(home / "more"), validation="test"))
    assert numbers(sets.train) == [*range(30), *range(100, 112)]
    assert numbers(sets.test) == [200, 201, 202, 203, 204]


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_additional_images_may_lie_in_an_array_file(home: Path, suffix: str) -> None:
    more = numbered(12) + np.uint8(100)
    (np.save if suffix == "npy" else np.savez)(home / f"more.{suffix}", more)
    sets = ingest(config(stored(home), extra_source=f"more.{suffix}"))
    assert sorted(itertools.chain(*(numbers(part) for part in splits(sets)))) == [*range(40), *range(100, 112)]


@pytest.mark.parametrize("seed", range(3))
def test_additional_images_are_cut_like_those_of_the_source_and_their_patches_stay_together(
    home: Path, seed: int
) -> None:
    save_pictures(home / "scans", 6, 16)
    save_pictures(home / "more", 6, 24, first=100)
    sets = ingest(config(home / "scans", extra_source="more", patch=8, validation=20, test=0.2, seed=seed))
    files = [set(numbers(part)) for part in splits(sets)]
    assert sum(len(part) for part in files) == len(set.union(*files)) == 12
    for part in splits(sets):
        assert all(numbers(part).count(file) == (9 if file >= 100 else 4) for file in numbers(part))


def test_files_that_are_being_written_are_not_added(home: Path) -> None:
    save_pictures(home / "more", 3, 8, first=100)
    before = ingest(config(stored(home), extra_source="more")).digest
    for name in (".a.png", "a.png.part", "a.png.tmp", ".upload/a.png", "upload.PART/a.png"):
        (home / "more" / name).parent.mkdir(exist_ok=True)
        (home / "more" / name).write_bytes(b"half an ima")
    assert ingest(config(stored(home), extra_source="more")).digest == before


def test_additional_images_are_another_digest_and_where_they_lie_is_not(home: Path) -> None:
    save_pictures(home / "more", 3, 8, first=100)
    save_pictures(home / "elsewhere", 3, 8, first=100)
    source = stored(home)
    plain, first, second = (ingest(config(source, extra_source=extra)).digest for extra in (None, "more", "elsewhere"))
    assert plain != first == second
    save_pictures(home / "other", 3, 8, first=101)
    assert ingest(config(source, extra_source="other")).digest != first


def test_without_additional_images_digests_are_what_they_were_before_there_could_be_any(home: Path) -> None:
    """Or every cached folder would be made anew, and recorded digests would agree with nothing."""
    assert datasets.compute_digest(DataConfig()) == "db3706c78bde2ac866d075b1a91048b2a3410c9b08e427809d86e7eabb466ee1"
    (home / "raw.idx").write_bytes(
        bytes([0, 0, 8, 3, *(0, 0, 0, 9), *(0, 0, 0, 8), *(0, 0, 0, 8)]) + bytes(range(64)) * 9
    )
    own = DataConfig(source="raw.idx", limit=8, validation=0.25, test=2, seed=3)
    assert ingest(own).digest == "f72c0a763df864a02bebc20a66c9d68670ee9665103eff35583d48ce8d8aa199"


RECORDED_BEFORE = """
data: {source: mnist, test_source: null, validation: 5000, test: null, also: null, limit: null, test_limit: null, patch: null,
  seed: 0}
noise:
  kinds:
  - {kind: gaussian, weight: 1.0, variance: 0.1}
  - {kind: salt_and_pepper, weight: 1.0, amount: 0.1, salt_share: 0.9}
  - {kind: poisson, weight: 1.0, peak: grey_levels}
  - {kind: speckle, weight: 1.0, variance: 1.0}
  clip: false
  training: fresh
  seed: 0
model: {architecture: unet, width: 16, deep_width: 48, blocks: 1, deep_blocks: 1}
train: {epochs: 8, batch_size: 32, steps_per_epoch: 1000, learning_rate: 0.006, beta_2: 0.99, schedule: cosine,
  warmup_steps: 120, drop_last: true, patience: null, jit_compile: false, precision: float32, seed: 0}
gate: {max_val_mse: 0.0069, beat_nothing: true}
"""
"""The default configuration as runs recorded it before there were noise.file_share and what came with it."""


def test_without_additional_images_the_configurations_digest_is_what_it_was_so_that_older_runs_can_be_resumed() -> None:
    before = add_former_defaults(yaml.safe_load(RECORDED_BEFORE))
    assert (
        PipelineConfig.model_validate(before).digest
        == "af9083dcab0c3390ccab9aad794e78b400ca066f488aea2cd7062675945bd31c"
    )
    others = [PipelineConfig(data=DataConfig(extra_source=extra)).digest for extra in ("more", "other")]
    assert len({PipelineConfig().digest, *others}) == 3


@pytest.mark.parametrize(("odd", "named"), [(0, "000"), (2, "002")])
def test_an_additional_image_of_another_shape_is_named_with_both_shapes(home: Path, odd: int, named: str) -> None:
    save_pictures(home / "more", 3, 8)
    Image.fromarray(np.zeros((9, 10), np.uint8)).save(home / "more" / f"{odd:03}.png")
    refused = rf"more/{named}\.png: must be 8x8 with 1 channel; found 9x10 with 1 channel"
    with pytest.raises(DataError, match=refused):
        ingest(config(stored(home), extra_source="more"))
    assert left_in_cache(home) == []


def test_an_additional_array_of_another_shape_is_named_with_both_shapes(home: Path) -> None:
    np.save(home / "more.npy", numbered(3, channels=3))
    refused = r"more\.npy: data\.extra_source must hold images of 8x8 with 1 channel; found 8x8 with 3 channels"
    with pytest.raises(DataError, match=refused):
        ingest(config(stored(home), extra_source="more.npy"))
    assert left_in_cache(home) == []


def test_a_missing_or_empty_place_of_additional_images_is_refused_by_the_fields_name(home: Path) -> None:
    with pytest.raises(DataError, match=r"/more: data\.extra_source must be .* a file or a folder; found no such path"):
        ingest(config(stored(home), extra_source="more"))
    (home / "more").mkdir()
    with pytest.raises(DataError, match=r"/more: data\.extra_source must hold PNG, JPEG or TIFF images; found none"):
        ingest(config(stored(home), extra_source="more"))
    assert left_in_cache(home) == []


@given(st.integers(0, 5000), st.integers(8, 300))
def test_blocks_cover_every_row_once_in_order(count: int, side: int) -> None:
    size = images_per_block((side, side, 1))
    found = list(datasets.iterate_blocks(count, (side, side, 1)))
    rows: list[NDArray[np.intp]] = [np.arange(count)[part] for _, part in found]
    assert [number for number, _ in found] == list(range(len(found)))
    assert all(len(part) == size for part in rows[:-1])
    np.testing.assert_array_equal(np.concatenate([*rows, np.arange(0)]), np.arange(count))


def test_other_pixels_than_were_stored_are_refused_before_they_are_used(home: Path) -> None:
    train = Path(ingest(config(stored(home))).train.path)
    content = bytearray(train.read_bytes())
    content[-1] ^= 1
    train.write_bytes(content)
    with pytest.raises(DataError, match=r"delete the folder to make it again; found train\.npy: other pixels"):
        ingest(config(stored(home)))
