"""Corrupt: add noise to stored image sets, either once and pinned by digest, or fresh for every epoch of training."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dae import random_streams, storage
from dae.config.schema import NoiseConfig, TrainConfig, config_sha256
from dae.data import datasets
from dae.data.arrays import DataError, npy_sha256
from dae.noise.kinds import corrupt
from dae.schemas import Images, ImageSet, ImageSets, NoisySet, NoisySets

logger = logging.getLogger(__name__)

LAYOUT = 3
"""Version of the draw and of the folder's layout; with another version, the noise is drawn again."""
WORKERS = 2


def corrupt_sets(images: ImageSets, config: NoiseConfig) -> NoisySets:
    """Draw the noise of the validation and test sets, and of the training set if its noise is frozen.

    The noise of a set depends only on the digest of its pixels, the noise configuration and the split's name. If the test set
    is also the validation set, both share one draw.
    """
    total = sum(kind.weight for kind in config.kinds)
    shares = ", ".join(f"{kind.name.replace('_', ' ')} {kind.weight / total:.0%}" for kind in config.kinds)
    logger.info(
        "corrupt: %s; %.0f%% as an 8-bit file holds it; training noise %s",
        shares,
        100 * config.file_share,
        "fresh every epoch" if config.training == "fresh" else "frozen",
    )
    test = freeze_noise(images.test, config, "test")
    same = images.validation == images.test
    return NoisySets(
        train=freeze_noise(images.train, config, "train") if config.training == "frozen" else None,
        validation=test if same else freeze_noise(images.validation, config, "validation"),
        test=test,
    )


def freeze_noise(images: ImageSet, config: NoiseConfig, split: str, parent: Path | None = None) -> NoisySet:
    """Draw and store the noise of a set, unless it is already stored.

    Parameters
    ----------
    images : ImageSet
    config : NoiseConfig
    split : str
        Name of the stream the noise is drawn from.
    parent : Path, optional
        Folder to store it in, by default in the cache.

    Returns
    -------
    NoisySet
    """
    pixels = {"images": images.sha256, "shape": [images.count, *images.shape]}
    digest = config_sha256({"layout": LAYOUT, **pixels, "noise": _law(config), "split": split})
    target = (parent or storage.cache_folder() / "noisy") / digest[:16]
    if not storage.touch_if_exists(target):
        with storage.atomic_folder(target) as draft:
            sha256 = _write(images, config, split, draft)
            storage.write_text(
                draft / "manifest.json", json.dumps({"split": split, "sha256": sha256, "noise": _law(config)})
            )
    noisy = NoisySet(
        clean=images,
        path=str(target / "noisy.npy"),
        kinds_path=str(target / "kinds.npy"),
        kinds=tuple(config.shares()),
        sha256=_stored_sha256(target),
    )
    verify_noisy_set(noisy)
    return noisy


def draw_fresh(
    images: ImageSet, rows: NDArray[np.intp], noise: NoiseConfig, train: TrainConfig, lap: int, block: int
) -> tuple[Images, Images]:
    """Return the noisy and the clean images of one block of a pass over the training images, ``(n, H, W, C)`` each.

    Some images are windows of pages and some get no noise, by the shares in `train`. Each block of each pass (`lap`, from 0)
    has its own random streams, so that it does not depend on earlier draws.
    """
    clean = datasets.read_images(images, rows)
    if train.page_share:
        _cut_from_pages(clean, train.page_share, random_streams.make_stream(train.seed, "pages", lap, block))
    stream = random_streams.make_stream(train.seed, "noise", "train", lap, block)
    noisy, _ = corrupt(clean, noise.kinds, stream, file_share=noise.file_share)
    without_noise = random_streams.make_stream(train.seed, "clean", lap, block).random(len(clean)) < train.clean_share
    noisy[without_noise] = clean[without_noise]
    return noisy, clean


def _cut_from_pages(images: Images, share: float, stream: np.random.Generator) -> None:
    """Replace a share of the images, in place, by windows of the same size on pages of two by two images."""
    count, height, width = images.shape[:3]
    replaced = np.flatnonzero(stream.random(count) < share)
    tops, lefts = (stream.integers(side, size=len(replaced)) for side in (height, width))
    corners = images[stream.integers(count, size=(len(replaced), 4))]
    pages = np.concatenate(
        [np.concatenate([corners[:, 2 * row], corners[:, 2 * row + 1]], axis=2) for row in (0, 1)], axis=1
    )
    for row, page, top, left in zip(replaced, pages, tops, lefts, strict=True):
        images[row] = page[top : top + height, left : left + width]


def read_block(noisy: NoisySet, rows: slice | NDArray[np.intp]) -> tuple[Images, Images, NDArray[np.uint8]]:
    """Return noisy images, clean images and kinds of some rows of a stored set."""
    return (
        np.array(np.load(noisy.path, mmap_mode="r")[rows]),
        datasets.read_images(noisy.clean, rows),
        np.array(np.load(noisy.kinds_path, mmap_mode="r")[rows]),
    )


def verify_noisy_set(noisy: NoisySet) -> None:
    """Check the stored pixels, clean and noisy, against their digests.

    Raises
    ------
    DataError
        If a byte differs, or a file is missing or cut short.
    """
    try:
        digests = npy_sha256(noisy.path, noisy.kinds_path), npy_sha256(noisy.clean.path)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            Path(noisy.path).parent, "must hold the stored noisy set; delete it to draw it again", str(error)
        ) from error
    for path, expected, digest in zip(
        (noisy.path, noisy.clean.path), (noisy.sha256, noisy.clean.sha256), digests, strict=True
    ):
        if digest != expected:
            rule = f"pixels must have SHA-256 {expected}; delete the folder to make them again"
            raise DataError(path, rule, digest)


def _stored_sha256(folder: Path) -> str:
    try:
        return str(json.loads((folder / "manifest.json").read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            folder, "must hold a stored noisy set; delete the folder to draw it again", str(error)
        ) from error


def _law(config: NoiseConfig) -> dict[str, object]:
    """Return what the noise depends on: the configuration, and the source of a user's own kinds."""
    sources = config.user_sources()
    return config.model_dump(mode="json", exclude={"training"}) | ({"sources": sources} if sources else {})


def _write(images: ImageSet, config: NoiseConfig, split: str, folder: Path) -> str:
    paths = folder / "noisy.npy", folder / "kinds.npy"
    for path, dtype, shape in zip(
        paths, (np.float32, np.uint8), ((images.count, *images.shape), (images.count,)), strict=True
    ):
        np.lib.format.open_memmap(path, "w+", dtype, shape)

    def draw(part: tuple[int, slice]) -> None:
        block, rows = part
        stream = random_streams.make_stream(config.seed, "noise", split, block)
        arrays = corrupt(datasets.read_images(images, rows), config.kinds, stream, file_share=config.file_share)
        for path, values in zip(paths, arrays, strict=True):
            np.load(path, mmap_mode="r+")[rows] = values  # a new map for each block: written pages do not accumulate

    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(draw, datasets.iterate_blocks(images.count, images.shape)):
            pass
    return npy_sha256(*paths)


def iterate_shuffled(images: ImageSet, seed: int, lap: int) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of each block of a pass, in the seeded order of that pass."""
    order = random_streams.make_stream(seed, "shuffle", lap).permutation(images.count)
    for _, rows in datasets.iterate_blocks(images.count, images.shape):
        yield order[rows]
