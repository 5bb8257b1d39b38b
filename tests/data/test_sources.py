from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from dae.config.schema import DataConfig
from dae.data import arrays as arrays_module
from dae.data import sources
from dae.data.arrays import Block, DataError
from dae.data.sources import Part, Source, open_source

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 9, 8), dtype=np.uint8)


def idx(array: NDArray[np.generic], code: int = 8) -> bytes:
    """Return an array as the bytes of an IDX file."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.tobytes()


def save_npz(path: Path) -> None:
    np.savez_compressed(path, x_train=IMAGES, y_train=np.arange(6))


def save_stored_npz(path: Path) -> None:
    np.savez(path, images=IMAGES)


def save_npy(path: Path) -> None:
    np.save(path, IMAGES)


def save_idx(path: Path) -> None:
    path.write_bytes(idx(IMAGES))


def save_gz(path: Path) -> None:
    path.write_bytes(gzip.compress(idx(IMAGES)))


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.npz": save_npz,
    "stored.npz": save_stored_npz,
    "a.npy": save_npy,
    "a-images-idx3-ubyte": save_idx,
    "a.idx": save_idx,
    "a-images-idx3-ubyte.gz": save_gz,
}
EACH = pytest.mark.parametrize("name", list(WRITERS))
CHECKSUMMED = pytest.mark.parametrize("name", ["a.npz", "stored.npz", "a-images-idx3-ubyte.gz"])


def opened(path: Path | str, **config: object) -> Source:
    return open_source(DataConfig.model_validate({"source": str(path), **config}))


def pixels_of(part: Part | None) -> Block:
    assert part is not None
    return np.concatenate(list(part.blocks()))


def refusal(path: Path | str, **config: object) -> str:
    with pytest.raises(DataError) as error:
        pixels_of(opened(path, **config).train)
    assert "\n" not in str(error.value).strip()
    return str(error.value)


def pixels_or_refusal(path: Path) -> Block | str:
    try:
        return pixels_of(opened(path).train)
    except DataError as error:
        return str(error)


# The bundled MNIST


@pytest.fixture(scope="module")
def mnist() -> dict[str, Block]:
    with np.load(sources.MNIST) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("x_train", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ("y_train", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ("x_test", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        ("y_test", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ],
)
def test_the_bundled_mnist_is_the_published_one_to_the_byte(mnist: dict[str, Block], name: str, digest: str) -> None:
    assert hashlib.sha256(idx(mnist[name])).hexdigest() == digest


def test_the_mnist_source_serves_the_bundled_images(mnist: dict[str, Block]) -> None:
    source = opened("mnist")
    np.testing.assert_array_equal(pixels_of(source.train), mnist["x_train"][..., None])
    np.testing.assert_array_equal(pixels_of(source.test), mnist["x_test"][..., None])


def test_a_damaged_bundled_file_is_refused_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "mnist.npz"
    save_npz(damaged)
    monkeypatch.setattr(sources, "MNIST", damaged)
    assert "mnist.npz: SHA-256 must be 06af5dfe" in refusal("mnist")


def test_the_licence_of_mnist_lies_beside_it() -> None:
    text = next(sources.MNIST.parent.glob("*LICENSE*")).read_text(encoding="utf-8")
    for word in ("CC BY-SA 3.0", "LeCun", "Cortes"):
        assert word in text


# Files that are in order


@EACH
def test_every_kind_of_file_yields_its_images(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    source = opened(tmp_path / name)
    np.testing.assert_array_equal(pixels_of(source.train), IMAGES[..., None])
    assert source.test is None
    assert source.files == (tmp_path / name,)


def test_a_relative_path_starts_at_the_projects_folder(home: Path) -> None:
    save_npy(home / "a.npy")
    assert len(pixels_of(opened("a.npy").train)) == 6


def test_colour_images_keep_their_channels(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", colours)
    np.testing.assert_array_equal(pixels_of(opened(tmp_path / "a.npy").train), colours)


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.float32, np.float64])
def test_arrays_of_16_bits_and_of_floats_become_uint8(tmp_path: Path, dtype: DTypeLike) -> None:
    scale = 1 / 255 if np.dtype(dtype).kind == "f" else 257
    np.save(tmp_path / "a.npy", (IMAGES * np.float64(scale)).astype(dtype))
    np.testing.assert_array_equal(pixels_of(opened(tmp_path / "a.npy").train), IMAGES[..., None])


def test_an_idx_file_of_floats_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_bytes(idx((IMAGES / 255).astype(">f4"), code=0x0D))
    np.testing.assert_array_equal(pixels_of(opened(tmp_path / "a.idx").train), IMAGES[..., None])


@EACH
def test_a_large_file_comes_in_blocks_that_make_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sources, "images_per_block", lambda shape: 4)
    WRITERS[name](tmp_path / name)
    found = list(opened(tmp_path / name).train.blocks())
    assert [len(block) for block in found] == [4, 2]
    np.testing.assert_array_equal(np.concatenate(found), IMAGES[..., None])


def test_an_npz_brings_its_own_test_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=IMAGES, x_test=IMAGES[:2], y_train=np.arange(6), y_test=np.arange(2))
    assert len(pixels_of(opened(tmp_path / "a.npz").test)) == 2


def test_a_test_source_takes_the_place_of_the_sources_own_test_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=IMAGES, x_test=IMAGES[:2])
    np.save(tmp_path / "b.npy", IMAGES[3:])
    source = opened(tmp_path / "a.npz", test_source=str(tmp_path / "b.npy"))
    np.testing.assert_array_equal(pixels_of(source.test), IMAGES[3:, ..., None])


# Files that are damaged


@EACH
def test_a_file_cut_short_anywhere_is_refused_by_its_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        assert str(path) in refusal(path)


@CHECKSUMMED
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_no_corrupt_byte_of_a_checksummed_file_changes_a_pixel_unnoticed(tmp_path: Path, name: str, mask: int) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
        found = pixels_or_refusal(path)
        if isinstance(found, str):
            refused += 1
            assert str(path) in found
        else:
            np.testing.assert_array_equal(found, IMAGES[..., None])
    assert refused > len(whole) // 4


@pytest.mark.parametrize(("name", "header"), [("a.npy", 128), ("a.idx", 16)])
def test_a_corrupt_header_is_refused_or_harmless_never_another_error(tmp_path: Path, name: str, header: int) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    for position in range(header):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x01]) + whole[position + 1 :])
        found = pixels_or_refusal(path)
        assert not isinstance(found, str) or str(path) in found


def test_a_corrupt_member_of_an_npz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_stored_npz(path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(IMAGES.tobytes()[:40]) + 20] ^= 0xFF
    path.write_bytes(whole)
    message = refusal(path)
    assert message.startswith(f"{path}/images: ")
    assert message.endswith("; found Bad CRC-32 for file 'images.npy'")


def test_a_truncated_file_says_how_many_images_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    save_npy(path)
    path.write_bytes(path.read_bytes()[: 128 + 72 * 4 + 5])
    assert refusal(path) == (
        f"{path}: must hold the 6 images its header names; found truncated data: only 4 whole images"
    )


@pytest.mark.parametrize("name", ["a.npy", "a.idx"])
def test_bytes_beyond_the_last_image_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(path.read_bytes() + b"\0")
    assert "must end after the 6 images its header names; found bytes beyond them" in refusal(path)


# Files that are something else


def test_labels_alone_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", y_train=np.arange(6, dtype=np.uint8))
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx(np.arange(6, dtype=np.uint8)))
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.uint8))
    for name in ("a.npz", "labels-idx1-ubyte", "a.npy"):
        assert "found a single axis: labels, not images" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((6, 64), np.uint8), "found shape (N, 64)"),
        (np.zeros((6, 8, 8, 5), np.uint8), "found shape (N, 8, 8, 5)"),
        (np.zeros((6, 8, 8), np.int64), "found dtype int64"),
        (np.zeros((6, 8, 8), bool), "found dtype bool"),
        (np.full((6, 8, 8), 255.0), "found 255.0 in image 0 at (0, 0, 0)"),
        (np.full((6, 8, 8), -0.5), "found -0.5 in image 0"),
        (np.full((6, 8, 8), np.nan), "found nan in image 0"),
        (np.asfortranarray(IMAGES), "found Fortran order"),
        (np.array([[["a"]]], dtype=object), "found objects"),
    ],
    ids=["rank 2", "5 channels", "int64", "bool", "0 to 255", "negative", "NaN", "Fortran order", "objects"],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_array_that_is_no_images_is_refused(
    tmp_path: Path, suffix: str, array: NDArray[np.generic], found: str
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, x_train=array)
    message = refusal(path)
    assert str(path) in message
    assert found in message


def test_the_image_at_fault_is_counted_through_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "images_per_block", lambda shape: 4)
    array = np.zeros((10, 8, 8))
    array[9, 1, 2] = np.nan
    np.save(tmp_path / "a.npy", array)
    assert "found nan in image 9 at (1, 2, 0)" in refusal(tmp_path / "a.npy")


def test_an_npz_with_several_arrays_and_no_x_train_is_refused_by_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, masks=IMAGES)
    assert "must hold x_train (and x_test), or a single array; found arrays images, masks" in refusal(
        tmp_path / "a.npz"
    )


def test_a_zip_without_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w"):
        pass
    assert "found arrays none" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no array here")
    assert str(path) in refusal(path)


def test_an_array_of_impossible_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.idx"
    path.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(100))
    assert str(path) in refusal(path)


def test_a_source_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "must be mnist, fashion_mnist, photographs, documents, a file or a folder; found no such path" in refusal(
        tmp_path / "absent.npz"
    )


def test_a_file_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2,3")
    assert "must be .npz, .npy, an IDX file or its .gz; found suffix '.csv'" in refusal(tmp_path / "a.csv")


def test_patches_are_cut_of_folders_only(tmp_path: Path) -> None:
    save_npy(tmp_path / "a.npy")
    assert "data.patch applies to folders of images; found a file and patch = 8" in refusal(tmp_path / "a.npy", patch=8)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "must hold PNG, JPEG or TIFF images; found none" in refusal(tmp_path)


def test_a_folder_is_a_source_whose_files_identify_it(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(IMAGES[number]).save(tmp_path / f"{number}.png")
    source = opened(tmp_path)
    np.testing.assert_array_equal(pixels_of(source.train), IMAGES[:3, ..., None])
    assert [file.name for file in source.files] == ["0.png", "1.png", "2.png"]


def test_errors_of_the_data_are_value_errors() -> None:
    assert issubclass(arrays_module.DataError, ValueError)


# Fashion-MNIST

FASHION = """
import gzip, json, sys
from pathlib import Path
from dae import runtime
runtime.configure()
from dae.config.schema import DataConfig
from dae.data.arrays import DataError
from dae.data.sources import open_source

config = DataConfig(source="fashion_mnist")
try:
    open_source(config)
    refusal = ""
except DataError as error:
    refusal = str(error)
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for part, count in (("train", 3), ("t10k", 2)):
    image = bytes([0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes([count]) * (count * 784)
    (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(image))
    labels = bytes([0, 0, 8, 1, 0, 0, 0, count, *range(count)])
    (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
source = open_source(config)
read = [[[*block.shape, int(block.min())] for block in part.blocks()] for part in (source.train, source.test)]
print(json.dumps({"refusal": refusal, "read": read}))
"""


@pytest.mark.slow
def test_fashion_mnist_offline_says_which_files_to_put_where_and_reads_them_once_they_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "keras" / "datasets" / "fashion-mnist"
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"KERAS_HOME": str(tmp_path / "keras"), "no_proxy": "", "NO_PROXY": ""}
    done = subprocess.run(
        [sys.executable, "-c", FASHION, str(folder)],
        env=environment,
        cwd=Path(sources.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for part in ("train", "t10k"):
        for what in ("images-idx3", "labels-idx1"):
            assert f"{part}-{what}-ubyte.gz" in found["refusal"]
    assert found["refusal"].startswith(f"{folder}: ")
    assert found["read"] == [[[3, 28, 28, 1, 3]], [[2, 28, 28, 1, 2]]]
