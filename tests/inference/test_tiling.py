"""Tiles: what is restored in parts is what is restored whole, and shows no seams."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dae.config.schema import ModelConfig
from dae.inference import tiling
from dae.networks import build
from dae.schemas import Images


def restored(apply: tiling.Apply, image: Images, tile: int, overlap: int | None = None) -> Images:
    """Return an image whose sides lie on the grid, restored in tiles."""
    rows, columns = (tiling.lay_tiles(length, min(tile, length), overlap) for length in image.shape[:2])
    parts = list(tiling.restore_bands(apply, lambda part: image[part], rows, columns))
    stops = [part.stop for part, _ in parts]
    assert [part.start for part, _ in parts] == [0, *stops[:-1]]
    assert stops[-1] == len(image)
    return np.concatenate([band for _, band in parts])


@given(st.integers(8, 90), st.integers(0, 400), st.one_of(st.none(), st.integers(0, 4)))
def test_tiles_cover_an_axis_with_weights_that_add_up_to_one(tile: int, more: int, eighths: int | None) -> None:
    length = tiling.covered_length(tile + more, tile)
    assert 0 <= length - tile - more < tiling.CELL
    laid = tiling.lay_tiles(length, tile, None if eighths is None else eighths * tile // 8)
    total = np.zeros(length)
    for start, weight in zip(laid.starts, laid.weights, strict=True):
        assert weight.min() >= 0
        total[start : start + tile] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (laid.starts[0], laid.starts[-1]) == (0, length - tile)
    assert all(start % tiling.CELL == 0 for start in laid.starts)


@pytest.mark.parametrize("shape", [(8, 8, 1), (40, 300, 3), (304, 40, 1), (132, 260, 3)])
def test_what_changes_nothing_gives_the_image_back(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).random(shape, np.float32)
    np.testing.assert_allclose(restored(lambda tiles: tiles, image, 64), image, atol=1e-6)


def test_a_single_tile_is_what_the_model_gives() -> None:
    image = np.random.default_rng(0).random((50, 64, 1), np.float32)
    np.testing.assert_array_equal(restored(np.square, image, 64), np.square(image))


@pytest.mark.parametrize(("tile", "overlap", "size"), [(64, 24, 13), (128, None, 9), (28, None, 7)])
def test_the_edges_of_tiles_are_not_felt(tile: int, overlap: int | None, size: int) -> None:
    from scipy.ndimage import uniform_filter

    def blurred(tiles: Images) -> Images:  # with zeros beyond the edge of a tile, as a convolution has them
        return np.asarray(uniform_filter(tiles, (0, size, size, 0), mode="constant"), np.float32)

    image = np.random.default_rng(0).random((152, 172, 1), np.float32)
    np.testing.assert_allclose(restored(blurred, image, tile, overlap), blurred(image[None])[0], atol=1e-6)


def test_no_more_than_a_band_is_read_at_a_time() -> None:
    image = np.zeros((640, 96, 1), np.float32)
    read: list[int] = []

    def reading(part: slice) -> Images:
        read.append(part.stop - part.start)
        return image[part]

    rows, columns = tiling.lay_tiles(640, 64), tiling.lay_tiles(96, 64)
    bands = [len(band) for _, band in tiling.restore_bands(lambda tiles: tiles, reading, rows, columns)]
    assert max(*read, *bands) == 64


@functools.cache
def network() -> Callable[[Images], Images]:
    """The default network, with weights that make what a tile holds as a whole matter for each of its pixels."""
    model = build.build_network(ModelConfig(width=8, deep_width=8), (28, 28, 1))
    rng = np.random.default_rng(0)  # Keras draws from the process's own generator, as other threads do
    model.set_weights([rng.normal(0, np.hypot(0.1, each.std()), each.shape) for each in model.get_weights()])

    def apply(tiles: Images) -> Images:
        return np.asarray(model.predict_on_batch(tiles), np.float32)

    return apply


def seams(image: Images, tile: int, overlap: int | None) -> float:
    """Return how the greatest mean jump from one column or row to the next compares with a usual one.

    Measured in the difference from the image restored whole, where what the image shows is gone.
    """
    difference: Images = restored(network(), image, tile, overlap) - network()(image[None])[0]
    assert np.abs(difference).mean() > 5e-4  # there is something that could show
    jumps = [np.abs(np.diff(difference, axis=axis)).mean(axis=(1 - axis, 2)) for axis in (0, 1)]
    return float(max(each.max() / np.median(each) for each in jumps))


@pytest.fixture(scope="module")
def scene() -> Images:
    """Noise over an image that is dark on one side, bright on the other, so that the tiles differ."""
    y, x = np.mgrid[0:384, 0:448].astype(np.float32)
    clean = 0.5 + 0.4 * np.tanh((x - 200) / 60) * np.cos(y / 90)
    noise = np.random.default_rng(0).normal(0, 1, clean.shape) * (0.02 + 0.2 * (y > 180))
    return np.asarray((clean + noise)[..., None], np.float32)


def test_no_seams_show(scene: Images) -> None:
    assert seams(scene, 128, None) < 3
    assert seams(scene, 128, 0) > 8  # side by side, tiles do show


def test_the_tone_of_an_even_area_drifts_without_steps_where_the_rest_of_the_image_differs() -> None:
    """Half of the image is flat grey under noise, half is texture, which every tile has another share of."""
    y, x = np.mgrid[0:256, 0:768].astype(np.float32)
    clean = np.where(x < 384, 0.4, 0.5 + 0.4 * np.sign(np.sin(x / 3) * np.sin(y / 4)))
    image = (clean + np.random.default_rng(0).normal(0, 0.1, clean.shape)).astype(np.float32)[..., None]
    whole = network()(image[None])[0]

    def steps(overlap: int | None) -> float:
        drift = (restored(network(), image, 128, overlap) - whole)[:, : 384 - 64].mean(axis=(0, 2))
        assert np.ptp(drift) > 0.001  # there is something that could show
        return float(np.abs(np.diff(drift)).max())

    assert steps(None) < steps(0) / 8  # side by side, tiles do show
