from __future__ import annotations

import numpy as np
import pytest

from dae.config.schema import DataConfig
from dae.data import datasets, documents
from dae.data.arrays import DataError
from dae.data.sources import open_source


def test_a_page_is_grey_paper_with_darker_ink_and_the_same_every_time() -> None:
    page = documents.draw_page("train", 3)
    assert page.shape == (documents.HEIGHT, documents.WIDTH, 1)
    assert page.dtype == np.uint8
    np.testing.assert_array_equal(page, documents.draw_page("train", 3))
    paper = np.percentile(page, 90)
    assert paper > 180
    assert 0.02 < np.mean(page < paper - 80) < 0.4


def test_pages_differ_within_and_between_splits() -> None:
    pages = {documents.draw_page(split, number).tobytes() for split in ("train", "test") for number in range(3)}
    assert len(pages) == 6


def test_a_split_holds_whole_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PAGES", {"train": 4, "test": 1})
    images = datasets.ingest(DataConfig(source="documents", validation=10))
    of_a_page = (documents.HEIGHT // 64) * (documents.WIDTH // 64)
    counts = [each.count for each in (images.train, images.validation, images.test)]
    assert counts == [3 * of_a_page, of_a_page, of_a_page]
    held_out = np.load(images.validation.path).tobytes()
    blocks = [block.tobytes() for block in documents.iterate_blocks("train", 64)]
    assert held_out in blocks
    assert images.train.shape == (64, 64, 1)


def test_another_size_of_patch() -> None:
    assert next(documents.iterate_blocks("test", 128)).shape == (35, 128, 128, 1)


def test_the_fonts_identify_the_source_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {path.suffix for path in open_source(DataConfig(source="documents")).files} == {".ttf"}
    monkeypatch.setattr(documents, "FAMILIES", (("Nowhere.ttf",),))
    with pytest.raises(DataError, match=r"Nowhere\.ttf: documents needs the fonts in Matplotlib's wheel"):
        documents.source_files()
