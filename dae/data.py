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

from dae import rng, store
from dae.config import DataConfig, config_sha256
from dae.pixels import Block, DataError, images_per_block
from dae.records import ImageSet, ImageSets
from dae.sources import Part, Source, open_source

Mapped = Callable[[], Block]
"""Maps stored images anew each time: pages once read do not count against the process for longer than a block."""

logger = logging.getLogger(__name__)

LAYOUT = 1
"""Version of what a folder holds; a change makes ingest start anew."""


def ingest(config: DataConfig) -> ImageSets:
    """Read, check, split and store the images of a source, or find them stored already.

    Parameters
    ----------
    config : DataConfig

    Returns
    -------
    ImageSets
        In a folder of the cache named after the bytes of the source and the configuration.

    Raises
    ------
    DataError
        If a file breaks a rule, or more is held out than there is. Nothing is left behind.
    """
    source = open_source(config)
    digest = config_sha256(
        {
            "layout": LAYOUT,
            "files": [[store.file_sha256(file) for file in files] for files in (source.files, source.test_files)],
            "config": config.model_dump(mode="json", exclude={"source", "test_source"}),
        }
    )
    target = store.cache() / "images" / digest[:16]
    found = target.is_dir()
    if not found:
        with store.publish(target) as draft:
            manifest = {"source": source.name, "digest": digest} | _write_splits(source, config, draft)
            store.write_text(draft / "manifest.json", json.dumps(manifest, indent=2))
    images = _read_manifest(target)
    counts = [f"{getattr(images, name).count:,} {name}" for name in ("train", "validation", "test")]
    size = "x".join(map(str, images.train.shape))
    logger.info(
        "ingest: %s, %s images of %s, %s", images.source, " + ".join(counts), size, "found" if found else "stored"
    )
    return images


def read(images: ImageSet, rows: slice | NDArray[np.intp] = slice(None)) -> NDArray[np.float32]:
    """Return some images of a set as float32 in [0, 1], shape ``(n, H, W, C)``.

    The file is mapped anew each time, so that pages once read do not count against the process.
    """
    pixels: NDArray[np.float32] = np.load(images.path, mmap_mode="r")[rows].astype(np.float32)
    pixels /= np.float32(255)
    return pixels


def blocks(count: int, shape: tuple[int, ...]) -> Iterator[tuple[int, slice]]:
    """Yield the number and the rows of each block of `count` images of a shape.

    Examples
    --------
    >>> list(blocks(5, (512, 1024, 1)))
    [(0, slice(0, 2, None)), (1, slice(2, 4, None)), (2, slice(4, 5, None))]
    """
    size = images_per_block(shape)
    for block, start in enumerate(range(0, count, size)):
        yield block, slice(start, min(start + size, count))


def _write_splits(source: Source, config: DataConfig, folder: Path) -> dict[str, object]:
    pool, groups = _gather(source.train, folder / "pool.raw", config.limit, config.source)
    splits = {name: (pool, rows) for name, rows in _split(source, config, groups).items()}
    if source.test is not None:
        test, _ = _gather(source.test, folder / "test.raw", config.test_limit, config.test_source or config.source)
        shape, expected = test().shape, pool().shape[1:]
        if shape[1:] != expected:
            raise DataError(config.source, f"test images must be {expected} as the training images are", f"{shape[1:]}")
        splits["test"] = (test, np.arange(shape[0]))
    manifest: dict[str, object] = {
        name: _write(folder / f"{name}.npy", images, rows) for name, (images, rows) in splits.items()
    }
    for raw in folder.glob("*.raw"):
        raw.unlink()
    return manifest | ({"validation": manifest["test"]} if config.validation == "test" else {})


def _split(source: Source, config: DataConfig, groups: NDArray[np.intp]) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each split that is drawn from the training images, and of those that are left to train on."""
    wanted: dict[str, int | float] = {}
    if config.validation != "test":
        wanted["validation"] = config.validation
    if source.test is None:
        share = config.test or config.validation
        if share == "test":
            rule = "with data.validation = test, a source without test images needs data.test"
            raise DataError(config.source, rule, "none")
        if config.test_limit is not None:
            raise DataError(config.source, "data.test_limit is for a source with test images of its own", "none")
        wanted["test"] = share
    elif config.test is not None:
        raise DataError(
            config.source, "data.test is for a source without test images of its own", f"data.test = {config.test}"
        )
    splits: dict[str, NDArray[np.intp]] = {}
    left = np.arange(len(groups))
    for name, share in wanted.items():
        splits[name] = _hold_out(left, groups, share, config.seed, name, config.source)
        left = np.setdiff1d(left, splits[name])
    return splits | {"train": left}


def _gather(part: Part, raw: Path, limit: int | None, name: str) -> tuple[Mapped, NDArray[np.intp]]:
    """Copy a part's images to a raw file; return what maps them, and the number of the group each belongs to."""
    shape: tuple[int, ...] = ()
    groups: list[NDArray[np.intp]] = []
    count = 0
    with raw.open("wb") as file:
        for number, block in enumerate(part.blocks()):
            kept = block[: None if limit is None else limit - count]
            shape = kept.shape[1:]
            groups.append(np.full(len(kept), number) if part.grouped else np.arange(count, count + len(kept)))
            file.write(np.ascontiguousarray(kept).data)
            count += len(kept)
            if count == limit:
                break
    if count == 0:
        raise DataError(name, "must hold at least one image", "none")
    return partial(np.memmap, raw, np.uint8, "r", shape=(count, *shape)), np.concatenate(groups)


def _hold_out(
    rows: NDArray[np.intp], groups: NDArray[np.intp], wanted: int | float, seed: int, name: str, source: str
) -> NDArray[np.intp]:
    """Draw whole groups until at least `wanted` rows are held out; at least one group must remain."""
    count = wanted if isinstance(wanted, int) else max(1, round(wanted * len(groups)))
    present = np.unique(groups[rows])
    drawn = rng.stream(seed, "split", name).permutation(present)
    sizes = np.cumsum(np.bincount(groups[rows], minlength=int(groups.max()) + 1)[drawn])
    needed = int(np.searchsorted(sizes, count)) + 1
    if needed >= len(present):
        rule = f"data.{name} = {wanted} must leave images (of other files, where they are cut) to train on"
        raise DataError(source, rule, f"{len(rows)} images to draw from")
    return rows[np.isin(groups[rows], drawn[:needed])]


def _write(path: Path, images: Mapped, rows: NDArray[np.intp]) -> dict[str, object]:
    shape = (len(rows), *images().shape[1:])
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for _, part in blocks(len(rows), shape[1:]):
            file.write(images()[rows[part]].data)
    return {"sha256": store.npy_sha256(path), "shape": shape}


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
    if store.npy_sha256(path) != manifest[name]["sha256"]:
        raise ValueError(f"{path.name}: other pixels than were stored, by their SHA-256")
    count, height, width, channels = stored.shape
    return ImageSet(
        path=str(path), sha256=str(manifest[name]["sha256"]), count=count, height=height, width=width, channels=channels
    )
