"""The noisy files that ``dae train`` ends with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dae import corruption, data, examples
from dae.config import PipelineConfig

SMALL = {"data": {"limit": 300, "validation": 100, "test_limit": 200}}


def test_there_is_a_file_for_each_kind_of_noise_with_frozen_test_images_in_it(tmp_path: Path) -> None:
    config = PipelineConfig.model_validate(SMALL)
    files = examples.write_noisy(config, tmp_path / "noisy")
    assert [file.name for file in files] == ["gaussian.png", "salt_and_pepper.png", "poisson.png", "speckle.png"]
    noisy = corruption.corrupt_sets(data.ingest(config.data), config.noise).test
    damaged, _, drawn = corruption.read_block(noisy, slice(None))
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
    (file,) = examples.write_noisy(config, tmp_path / "noisy")
    assert np.asarray(Image.open(file)).shape == (300, 4 * 90, 3)
