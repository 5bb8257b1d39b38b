"""The noisy files that ``dae train`` ends with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dae.config.schema import PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.evaluation import example_files

SMALL = {"data": {"limit": 300, "validation": 100, "test_limit": 200}}


def test_there_is_a_file_for_each_kind_of_noise_with_frozen_test_images_in_it(tmp_path: Path) -> None:
    config = PipelineConfig.model_validate(SMALL)
    files = example_files.write_noisy_examples(config, tmp_path / "noisy")
    assert [file.name for file in files] == ["gaussian.png", "salt_and_pepper.png", "poisson.png", "speckle.png"]
    noisy = noisy_datasets.corrupt_sets(datasets.ingest(config.data), config.noise).test
    damaged, _, drawn = noisy_datasets.read_block(noisy, slice(None))
    for index, file in enumerate(files):
        page = np.asarray(Image.open(file))
        assert page.shape == (4 * 28, 6 * 28)
        first = damaged[np.isin(drawn, (index, index + 4))][0, ..., 0]
        np.testing.assert_array_equal(page[:28, :28], np.rint(np.clip(first, 0, 1) * 255))


def test_what_is_there_is_replaced_and_large_or_few_images_fit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "few.npy", rng.integers(0, 256, (20, 300, 90, 3), np.uint8))
    source = {"source": str(tmp_path / "few.npy"), "validation": 4, "test": 5}
    config = PipelineConfig.model_validate({"data": source, "noise": {"kinds": [{"kind": "gaussian"}]}})
    (tmp_path / "noisy").mkdir()
    (tmp_path / "noisy" / "gaussian.png").write_text("old")
    (file,) = example_files.write_noisy_examples(config, tmp_path / "noisy")
    assert np.asarray(Image.open(file)).shape == (300, 4 * 90, 3)
