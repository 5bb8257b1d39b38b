from __future__ import annotations

import numpy as np
import pytest

from dae.config.schema import DataConfig
from dae.data import datasets, photographs
from dae.data.arrays import Block, DataError
from dae.data.folders import read_image
from dae.data.sources import open_source


def patches(part: str, patch: int = 64) -> Block:
    source = open_source(DataConfig(source="photographs", patch=patch))
    blocks = source.train if part == "train" else source.test
    assert blocks is not None
    return np.concatenate(list(blocks.blocks()))


def test_they_are_colour_patches_and_the_same_every_time() -> None:
    test = patches("test")
    assert test.shape == (82, 64, 64, 3)
    assert test.dtype == np.uint8
    np.testing.assert_array_equal(test, patches("test"))
    assert patches("test", 100).shape[1:] == (100, 100, 3)


def test_train_and_test_are_other_photographs() -> None:
    assert not {name for group in photographs.TRAIN for name in group} & {n for g in photographs.TEST for n in g}
    train = {patch.tobytes() for patch in patches("train")}
    assert not train & {patch.tobytes() for patch in patches("test")}


def test_a_scene_lies_on_one_side_of_the_split() -> None:
    images = datasets.ingest(DataConfig(source="photographs", validation=200, seed=2))
    astronaut = photographs.find_photographs((("astronaut.png",),))[0]
    full, half = photographs.read_scales(astronaut)
    expected = np.concatenate([photographs.cut_overlapping(each, 64) for each in (full, half)])
    np.testing.assert_array_equal(np.load(images.validation.path), expected)
    np.testing.assert_array_equal(full, read_image(astronaut))
    assert images.train.count + len(expected) == len(patches("train"))


def test_a_missing_photograph_is_named_and_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "TEST", (("eagle.png",),))
    with pytest.raises(DataError, match=r"eagle\.png: photographs needs the images in scikit-image's wheel"):
        open_source(DataConfig(source="photographs"))


def test_a_patch_larger_than_a_photograph_is_refused() -> None:
    with pytest.raises(DataError, match=r"astronaut\.png: must be at least data\.patch = 600 pixels high and wide"):
        patches("train", 600)
    with pytest.raises(DataError, match=r"chelsea\.png: must be at least data\.patch = 400"):
        patches("test", 400)
