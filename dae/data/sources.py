"""Readers of image sources: named sources such as the bundled MNIST, array files, IDX files and folders of images.

A reader yields blocks of uint8 images of shape ``(n, H, W, C)`` and never holds a whole large source in memory.
"""

from __future__ import annotations

import gzip
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from dae import storage
from dae.config.schema import DataConfig
from dae.data import documents, folders, formats, photographs
from dae.data.arrays import Block, DataError, as_uint8, images_per_block, read_npy_header

MNIST = storage.PACKAGE_ROOT / "dae" / "assets" / "mnist.npz"
MNIST_SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"


@dataclass(frozen=True)
class Part:
    """The images of one part of a source. If `grouped`, a block is one file's patches, which a split never divides."""

    blocks: Callable[[], Iterator[Block]]
    grouped: bool = False


@dataclass(frozen=True)
class Addition:
    """Images that are added to a source: their files, and a function that returns their part for a required shape."""

    files: tuple[Path, ...]
    part: Callable[[tuple[int, ...]], Part]


@dataclass(frozen=True)
class Source:
    """An opened source: its name, its files, its parts, the files of a test source, and the images of an extra source.

    The bytes of the files identify the images. If the images are generated from the files, `version` is part of the identity.
    """

    name: str
    files: tuple[Path, ...]
    train: Part
    test: Part | None = None
    test_files: tuple[Path, ...] = ()
    extra: Addition | None = None
    version: str | None = None


def open_source(config: DataConfig) -> Source:
    """Open the source of a configuration with the reader for it.

    Raises
    ------
    DataError
        If the source does not exist, has a suffix that no reader supports, or is the bundled file and damaged.
    """
    source = _open(config.source, config, "data.source")
    if config.test_source is not None:
        test = _open(config.test_source, config, "data.test_source")
        source = replace(source, test=test.train, test_files=test.files)
    return source if config.extra_source is None else replace(source, extra=_addition(config.extra_source, config))


def _addition(spec: str, config: DataConfig) -> Addition:
    """Open an extra source: any kind of source, or a folder that may receive new images at the same time."""
    path = storage.resolve_path(spec)
    if not path.is_dir():
        source = _open(spec, config, "data.extra_source")
        return Addition(source.files, partial(_require_shape, source.train, spec))
    files = folders.find_finished_files(path)
    if not files:
        raise DataError(path, f"data.extra_source must hold {formats.list_training_formats()} images", "none")
    patch = config.patch
    return Addition(files, lambda shape: Part(lambda: folders.iterate_blocks(files, patch, shape), patch is not None))


def _require_shape(part: Part, spec: str, shape: tuple[int, ...]) -> Part:
    """Return a part that refuses images of another shape."""

    def blocks() -> Iterator[Block]:
        for block in part.blocks():
            if block.shape[1:] != shape:
                rule = f"data.extra_source must hold images of {folders.format_shape(shape)}"
                raise DataError(spec, rule, folders.format_shape(block.shape[1:]))
            yield block

    return replace(part, blocks=blocks)


def _open(spec: str, config: DataConfig, field: str) -> Source:
    if spec in NAMED:
        return NAMED[spec](config.patch)
    path = storage.resolve_path(spec)
    if path.is_dir():
        files = folders.find_image_files(path)
        return Source(
            path.name, files, Part(lambda: folders.iterate_blocks(files, config.patch), config.patch is not None)
        )
    if not path.exists():
        raise DataError(path, f"{field} must be {', '.join(NAMED)}, a file or a folder", "no such path")
    if config.patch is not None:
        raise DataError(path, "data.patch applies to folders of images", f"a file and patch = {config.patch}")
    if path.suffix == ".npz":
        return _npz(path, path.stem)
    if path.suffix == ".npy":
        return Source(path.stem, (path,), Part(lambda: _npy_blocks(path)))
    if path.suffix in (".gz", "") or "idx" in path.suffix or "ubyte" in path.name:
        return Source(path.name, (path,), Part(lambda: _idx_blocks(path)))
    raise DataError(path, "a file must be .npz, .npy, an IDX file or its .gz", f"suffix {path.suffix!r}")


def _mnist(_: int | None) -> Source:
    digest = storage.file_sha256(MNIST)
    if digest != MNIST_SHA256:
        raise DataError(MNIST, f"SHA-256 must be {MNIST_SHA256}; restore the file", f"{digest}: truncated or corrupt")
    return _npz(MNIST, "mnist")


def _fashion_mnist(_: int | None) -> Source:
    import keras

    names = [f"{part}-{what}.gz" for part in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    parents = [
        Path(root).expanduser() / "datasets" / "fashion-mnist"
        for root in (os.environ.get("KERAS_HOME", "~/.keras"), "/tmp/.keras")
    ]
    try:
        keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # the loader lets errors of urllib, gzip and NumPy through
        rule = f"fashion_mnist needs {', '.join(names)}; without a network put them into that folder"
        raise DataError(parents[0], rule, f"{type(error).__name__}: {error}") from error
    parent = next(path for path in parents if (path / names[0]).is_file())
    train, test = parent / names[0], parent / names[2]
    return Source("fashion_mnist", (train, test), Part(lambda: _idx_blocks(train)), Part(lambda: _idx_blocks(test)))


def _patches(module: ModuleType, name: str, patch: int | None) -> Source:
    """Return a source of patches that a module generates; in each split, one block is one group."""
    side = patch or module.PATCH
    train, test = (Part(partial(module.iterate_blocks, split, side), grouped=True) for split in ("train", "test"))
    return Source(name, module.source_files(), train, test, version=module.VERSION)


NAMED: dict[str, Callable[[int | None], Source]] = {
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
    "photographs": partial(_patches, photographs, "photographs"),
    "documents": partial(_patches, documents, "documents"),
}
"""Named sources. A function's argument is the side of the patches, which only some sources have."""


def _npz(path: Path, name: str) -> Source:
    with _decoding(path, "must be a NumPy .npz archive"), zipfile.ZipFile(path) as archive:
        members = [member.removesuffix(".npy") for member in archive.namelist()]
    images = [member for member in members if member.startswith("x_")] or members
    if "x_train" in images:
        test = Part(lambda: _npz_blocks(path, "x_test")) if "x_test" in images else None
        return Source(name, (path,), Part(lambda: _npz_blocks(path, "x_train")), test)
    if len(images) != 1:
        raise DataError(
            path, "must hold x_train (and x_test), or a single array", f"arrays {', '.join(members) or 'none'}"
        )
    return Source(name, (path,), Part(lambda: _npz_blocks(path, images[0])))


def _npy_blocks(path: Path) -> Iterator[Block]:
    with path.open("rb") as file:
        yield from _stream(path, file)


def _npz_blocks(path: Path, member: str) -> Iterator[Block]:
    with _decoding(path / member), zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
        yield from _stream(path, file, member)


def _stream(path: Path, file: IO[bytes], member: str = "") -> Iterator[Block]:
    """Yield blocks of a ``.npy`` stream, which may lie inside an archive."""
    where = path / member if member else path
    with _decoding(where, "must be a NumPy array file"):
        shape, fortran, dtype = read_npy_header(file)
    if fortran or dtype.hasobject:
        raise DataError(where, "must be a plain array in C order", "objects" if dtype.hasobject else "Fortran order")
    yield from _rows(where, file, shape, dtype)


def _rows(path: Path, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Iterator[Block]:
    with _decoding(path):
        as_uint8(path, np.empty((0, *shape[1:]), dtype))  # refuses a wrong rank or dtype before any pixel is read
    row = math.prod(shape[1:]) * dtype.itemsize
    block = images_per_block(shape[1:])
    for start in range(0, shape[0], block):
        count = min(block, shape[0] - start)
        with _decoding(path):
            content = file.read(count * row)
        if len(content) < count * row:
            complete = start + len(content) // row
            rule = f"must hold the {shape[0]} images its header names"
            raise DataError(path, rule, f"truncated data: only {complete} whole images")
        yield as_uint8(path, np.frombuffer(content, dtype).reshape(count, *shape[1:]), start)
    with _decoding(path):  # zipfile checks the checksum when the end is read
        beyond = file.read(1)
    if beyond:
        raise DataError(path, f"must end after the {shape[0]} images its header names", "bytes beyond them")


IDX_DTYPES = {0x08: ">u1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def _idx_blocks(path: Path) -> Iterator[Block]:
    stream: IO[bytes] = cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115
    with stream as file:
        with _decoding(path, "must be an IDX file or its .gz"):
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_DTYPES:
                raise ValueError(f"first bytes {magic.hex() or 'none'}")
            shape: NDArray[np.uint32] = np.frombuffer(file.read(4 * magic[3]), ">u4", count=magic[3])
        yield from _rows(path, file, tuple(shape.tolist()), np.dtype(IDX_DTYPES[magic[2]]))


@contextmanager
def _decoding(path: Path, rule: str = "must be whole and undamaged") -> Iterator[None]:
    """Turn any exception of a decoder into a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, tokenize and NumPy raise different types
        raise DataError(path, rule, str(error) or type(error).__name__) from error
