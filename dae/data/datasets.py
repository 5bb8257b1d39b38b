"""Ingest: an image source becomes three content-addressed image sets on disk, uint8, split by a seeded draw."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dae import storage
from dae.config.schema import DataConfig, config_sha256
from dae.data.arrays import Block, DataError, images_per_block, npy_sha256
from dae.data.sources import Part, Source, open_source
from dae.data.splits import draw_splits
from dae.schemas import ImageSet, ImageSets

Mapped = Callable[[], Block]
"""Returns a new memory map of stored images: the pages that were read count as memory of the process for one block only."""

logger = logging.getLogger(__name__)

LAYOUT = 1
"""Version of the folder's layout; with another version, ingest stores the images again."""


def ingest(config: DataConfig, parent: Path | None = None) -> ImageSets:
    """Read, check, split and store the images of a source, unless they are already stored.

    Parameters
    ----------
    config : DataConfig
    parent : Path, optional
        Folder to store them in, by default in the cache.

    Returns
    -------
    ImageSets
        In a folder named after the digest of the source and the configuration.

    Raises
    ------
    DataError
        If a file breaks a rule, or more images are held out than there are. No incomplete folder is left behind.
    """
    source = open_source(config)
    digest = _digest(source, config)
    target = (parent or _parent()) / digest[:16]
    exists = storage.touch_if_exists(target)
    if not exists:
        with storage.atomic_folder(target) as draft:
            name = source.name if config.extra_source is None else f"{source.name} and {Path(config.extra_source).name}"
            manifest = {"source": name, "digest": digest} | _write_splits(source, config, draft)
            storage.write_text(draft / "manifest.json", json.dumps(manifest, indent=2))
    images = _read_manifest(target)
    counts = [f"{getattr(images, name).count:,} {name}" for name in ("train", "validation", "test")]
    size = "x".join(map(str, images.train.shape))
    logger.info(
        "ingest: %s, %s images of %s, %s", images.source, " + ".join(counts), size, "found" if exists else "stored"
    )
    return images


def compute_digest(config: DataConfig) -> str:
    """Return the digest that `ingest` gives the images of a configuration. The files are hashed, not decoded."""
    return _digest(open_source(config), config)


def find_stored(digest: str) -> ImageSets | None:
    """Return the images with a digest if they are in the cache; their source may have changed or be missing.

    Raises
    ------
    DataError
        If they are damaged.
    """
    target = _parent() / digest[:16]
    return _read_manifest(target) if storage.touch_if_exists(target) else None


def store_part(part: Part, name: str, target: Path) -> ImageSet:
    """Store all the images of a part as one set, in a new folder.

    Raises
    ------
    DataError
        If an image breaks a rule, or there is none. The message then names `name`.
    """
    with storage.atomic_folder(target) as draft:
        shape, groups = _append(part, draft / "all.raw", None, name)
        images = _mapped(draft / "all.raw", (len(groups), *shape))
        sha256 = str(_write(draft / "all.npy", images, np.arange(len(groups)))["sha256"])
        (draft / "all.raw").unlink()
    height, width, channels = shape
    path = str(target / "all.npy")
    return ImageSet(path=path, sha256=sha256, count=len(groups), height=height, width=width, channels=channels)


def read_images(images: ImageSet, rows: slice | NDArray[np.intp] = slice(None)) -> NDArray[np.float32]:
    """Return some images of a set as float32 in [0, 1], shape ``(n, H, W, C)``.

    Each call maps the file again, since the pages that were read would otherwise count as memory of the process.
    """
    pixels: NDArray[np.float32] = np.load(images.path, mmap_mode="r")[rows].astype(np.float32)
    pixels /= np.float32(255)
    return pixels


def iterate_blocks(count: int, shape: tuple[int, ...]) -> Iterator[tuple[int, slice]]:
    """Yield the number and the rows of each block of `count` images of a shape.

    Examples
    --------
    >>> list(iterate_blocks(5, (512, 1024, 1)))
    [(0, slice(0, 2, None)), (1, slice(2, 4, None)), (2, slice(4, 5, None))]
    """
    size = images_per_block(shape)
    for block, start in enumerate(range(0, count, size)):
        yield block, slice(start, min(start + size, count))


def _parent() -> Path:
    return storage.cache_folder() / "images"


def _digest(source: Source, config: DataConfig) -> str:
    """Return the digest of the files' bytes and the configuration; without an extra source it does not depend on one."""
    parts = [source.files, source.test_files, *([source.extra.files] if source.extra is not None else [])]
    digests = [[storage.file_sha256(file) for file in files] for files in parts]
    if source.version is not None:
        digests[0].append(source.version)
    return config_sha256(
        {
            "layout": LAYOUT,
            "files": digests,
            "config": config.model_dump(mode="json", exclude={"source", "test_source", "extra_source"}),
        }
    )


def _write_splits(source: Source, config: DataConfig, folder: Path) -> dict[str, object]:
    pool, groups = _pool(source, config, folder / "pool.raw")
    splits = {name: (pool, rows) for name, rows in draw_splits(source, config, groups).items()}
    if source.test is not None:
        name = config.test_source or config.source
        shape, rows = _append(source.test, folder / "test.raw", config.test_limit, name)
        if shape != (expected := pool().shape[1:]):
            raise DataError(config.source, f"test images must be {expected} as the training images are", f"{shape}")
        splits["test"] = (_mapped(folder / "test.raw", (len(rows), *shape)), np.arange(len(rows)))
    manifest: dict[str, object] = {
        name: _write(folder / f"{name}.npy", images, rows) for name, (images, rows) in splits.items()
    }
    for raw in folder.glob("*.raw"):
        raw.unlink()
    return manifest | ({"validation": manifest["test"]} if config.validation == "test" else {})


def _pool(source: Source, config: DataConfig, raw: Path) -> tuple[Mapped, NDArray[np.intp]]:
    """Gather the images that splits are drawn from: the source's, then the extra source's in separate groups."""
    shape, groups = _append(source.train, raw, config.limit, config.source)
    if source.extra is not None:
        _, added = _append(source.extra.part(shape), raw, None, str(config.extra_source))
        groups = np.concatenate([groups, groups.max() + 1 + added])
    return _mapped(raw, (len(groups), *shape)), groups


def _append(part: Part, raw: Path, limit: int | None, name: str) -> tuple[tuple[int, ...], NDArray[np.intp]]:
    """Copy a part's images to the end of a raw file; return their shape, and the number of each image's group."""
    shape: tuple[int, ...] = ()
    groups: list[NDArray[np.intp]] = []
    count = 0
    with raw.open("ab") as file:
        for number, block in enumerate(part.blocks()):
            images = block[: None if limit is None else limit - count]
            shape = images.shape[1:]
            groups.append(np.full(len(images), number) if part.grouped else np.arange(count, count + len(images)))
            file.write(np.ascontiguousarray(images).data)
            count += len(images)
            if count == limit:
                break
    if count == 0:
        raise DataError(name, "must hold at least one image", "none")
    return shape, np.concatenate(groups)


def _mapped(raw: Path, shape: tuple[int, ...]) -> Mapped:
    return partial(np.memmap, raw, np.uint8, "r", shape=shape)


def _write(path: Path, images: Mapped, rows: NDArray[np.intp]) -> dict[str, object]:
    shape = (len(rows), *images().shape[1:])
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for _, part in iterate_blocks(len(rows), shape[1:]):
            file.write(images()[rows[part]].data)
    return {"sha256": npy_sha256(path), "shape": shape}


def _read_manifest(folder: Path) -> ImageSets:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        splits = {name: _image_set(folder, name, manifest) for name in ("train", "validation", "test")}
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(
            folder, "must hold what ingest stored; delete the folder to make it again", str(error)
        ) from error
    return ImageSets(source=manifest["source"], digest=manifest["digest"], **splits)


def _image_set(folder: Path, name: str, manifest: dict[str, dict[str, Any]]) -> ImageSet:
    same_as_test = manifest[name] == manifest["test"]
    path = folder / ("test.npy" if same_as_test else f"{name}.npy")
    stored = np.load(path, mmap_mode="r")
    if stored.shape != tuple(manifest[name]["shape"]) or stored.dtype != np.uint8:
        raise ValueError(f"{path.name}: {stored.dtype} of shape {stored.shape}")
    if npy_sha256(path) != manifest[name]["sha256"]:
        raise ValueError(f"{path.name}: other pixels than were stored, by their SHA-256")
    count, height, width, channels = stored.shape
    return ImageSet(
        path=str(path), sha256=str(manifest[name]["sha256"]), count=count, height=height, width=width, channels=channels
    )
