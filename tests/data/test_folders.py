from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from dae.data.arrays import Block, DataError
from dae.data.folders import cut_patches, find_image_files, iterate_blocks, read_image


def ramp(height: int, width: int, channels: int = 1, seed: int = 0) -> Block:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path: Path, pixels: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(path)
    return path


def gathered(folder: Path, patch: int | None = None) -> Block:
    return np.concatenate(list(iterate_blocks(find_image_files(folder), patch)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".tiff"])
def test_8_bit_grey_and_rgb_images_are_read_exactly(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = ramp(11, 14, channels)
    found = read_image(save(tmp_path / f"a{suffix}", pixels))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


def test_a_16_bit_grey_png_keeps_its_bits(tmp_path: Path) -> None:
    pixels = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + np.uint16(77)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert found.dtype.itemsize == 2
    np.testing.assert_array_equal(found[..., 0], pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_16_bit_grey_and_rgb_tiffs_keep_their_bits(tmp_path: Path, channels: int, byteorder: Literal["<", ">"]) -> None:
    pixels = ramp(12, 10, channels).astype(np.uint16) * np.uint16(257) - np.uint16(3)
    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", pixels.squeeze(), photometric=kind, byteorder=byteorder)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint16), (".tif", np.uint16)])
def test_16_bits_become_8_by_rounding(tmp_path: Path, suffix: str, dtype: type[np.uint16]) -> None:
    pixels = np.full((8, 8), 1000, dtype)
    if suffix == ".png":
        Image.fromarray(pixels).save(tmp_path / "a.png")
    else:
        tifffile.imwrite(tmp_path / "a.tif", pixels)
    assert set(gathered(tmp_path).ravel().tolist()) == {4}  # 1000 / 257 = 3.9


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpegs_are_read_to_within_their_compression(tmp_path: Path, suffix: str, channels: int) -> None:
    smooth = np.linspace(20, 230, 24 * 24).reshape(24, 24, 1).repeat(channels, axis=2).astype(np.uint8)
    found = read_image(save(tmp_path / f"a{suffix}", smooth))
    assert found.shape == (24, 24, channels)
    assert np.abs(found.astype(int) - smooth).max() <= 8


def test_a_black_and_white_png_is_read_as_0_and_255(tmp_path: Path) -> None:
    bits = ramp(8, 8)[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], bits * np.uint8(255))


def test_a_png_with_a_palette_is_read_as_its_colours(tmp_path: Path) -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:, 4:] = (200, 30, 10)
    Image.fromarray(colours).quantize(2).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colours)


def test_images_are_found_in_subfolders_in_the_order_of_their_paths_and_other_files_are_left_alone(
    tmp_path: Path,
) -> None:
    for name in ("b/2.png", "a/9.png", "c.tif"):
        save(tmp_path / name, ramp(8, 8))
    (tmp_path / "notes.txt").write_text("not an image")
    assert [str(path.relative_to(tmp_path)) for path in find_image_files(tmp_path)] == ["a/9.png", "b/2.png", "c.tif"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match=f"{tmp_path.name}: must hold PNG, JPEG or TIFF images; found none"):
        find_image_files(tmp_path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK"])
def test_transparency_and_other_colours_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (8, 8)).save(path)
    with pytest.raises(DataError, match=f"{path.name}: must be grey or RGB, without transparency; found mode {mode}"):
        read_image(path)


@pytest.mark.parametrize(
    ("shape", "photometric"), [((8, 9, 4), "rgb"), ((5, 8, 9), "minisblack"), ((2, 8, 9, 3), "rgb")]
)
def test_a_tiff_that_is_not_one_grey_or_rgb_image_is_refused(
    tmp_path: Path, shape: tuple[int, ...], photometric: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), photometric=photometric)
    with pytest.raises(DataError, match=r"a.tif: must be one grey or RGB image; found shape"):
        read_image(tmp_path / "a.tif")


def test_a_tiff_with_a_palette_is_refused_for_its_pixels_are_no_intensities(tmp_path: Path) -> None:
    Image.fromarray(ramp(8, 8, 3)).quantize(16).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif: must be grey or RGB; found PALETTE"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_an_unreadable_image_is_refused_by_its_path(tmp_path: Path, suffix: str, damage: str) -> None:
    path = save(tmp_path / f"broken{suffix}", ramp(40, 40, 3))
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"not an image " * 20, "empty": b""}[damage])
    with pytest.raises(DataError, match=f"broken{suffix}: must be a readable image; found"):
        read_image(path)


def test_a_damaged_png_is_caught_by_its_checksum(tmp_path: Path) -> None:
    path = save(tmp_path / "broken.png", ramp(40, 40))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"broken.png: must be a readable image"):
        read_image(path)


def test_patches_tile_the_image_from_the_top_left(tmp_path: Path) -> None:
    image = ramp(20, 29, 3)
    patches = cut_patches(image, 9, tmp_path / "a.png")
    assert patches.shape == (2 * 3, 9, 9, 3)
    for number, patch in enumerate(patches):
        row, column = divmod(number, 3)
        np.testing.assert_array_equal(patch, image[9 * row : 9 * row + 9, 9 * column : 9 * column + 9])


def test_an_image_smaller_than_a_patch_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "small.png", ramp(20, 31))
    with pytest.raises(DataError, match=r"small.png: must be at least data.patch = 32 .*; found 20x31"):
        gathered(tmp_path, patch=32)


def test_whole_images_must_share_one_size(tmp_path: Path) -> None:
    save(tmp_path / "a.png", ramp(8, 9))
    save(tmp_path / "b.png", ramp(8, 10))
    with pytest.raises(DataError, match=r"b.png: must be 8x9 with 1 channel as a.png is.*; found 8x10 with 1 channel"):
        gathered(tmp_path)


@pytest.mark.parametrize("patch", [None, 8])
def test_grey_and_rgb_images_do_not_mix(tmp_path: Path, patch: int | None) -> None:
    save(tmp_path / "a.png", ramp(8, 8, 1))
    save(tmp_path / "b.png", ramp(8, 8, 3))
    with pytest.raises(DataError, match=r"b.png: must be 8x8 with 1 channel .*; found 8x8 with 3 channels"):
        gathered(tmp_path, patch)


def test_images_of_different_sizes_can_be_cut_into_patches_of_one(tmp_path: Path) -> None:
    save(tmp_path / "a.png", ramp(16, 16))
    save(tmp_path / "b.tif", ramp(8, 30))
    assert gathered(tmp_path, patch=8).shape == (4 + 3, 8, 8, 1)


def test_planar_and_inverted_tiffs_are_what_they_show(tmp_path: Path) -> None:
    colours = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(colours, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), colours)
    tifffile.imwrite(tmp_path / "b.tif", 255 - colours[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif")[..., 0], colours[..., 0])
