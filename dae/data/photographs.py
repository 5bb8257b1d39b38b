"""Photographs: the colour photographs in scikit-image's wheel, cut into patches; train and test share no photograph."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dae.data.arrays import Block, DataError
from dae.data.folders import cut_patches, read_image

PATCH = 64
VERSION = "cb22e6eb608bc984be499f34a98f00ea1b092f3023a8a17609ee3184a8a88381"
"""Version of how photographs are cut. It is part of the images' digest: with another version, they are cut again."""
TRAIN = (
    ("astronaut.png",),
    ("hubble_deep_field.jpg",),
    ("ihc.png",),
    ("motorcycle_left.png", "motorcycle_right.png"),
    ("retina.jpg",),
    ("rocket.jpg",),
)
"""Each group shows one scene; a split never divides it."""
TEST = (("chelsea.png",), ("coffee.png",))


def source_files() -> tuple[Path, ...]:
    """Return the photographs that the patches are cut from.

    Raises
    ------
    DataError
        If a photograph is missing: nothing is downloaded.
    """
    return find_photographs(TRAIN + TEST)


def find_photographs(groups: tuple[tuple[str, ...], ...]) -> tuple[Path, ...]:
    """Return the paths of some groups' photographs in scikit-image.

    Raises
    ------
    DataError
        If one is missing.
    """
    spec = importlib.util.find_spec("skimage")
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else Path("skimage")
    paths = tuple(folder / name for group in groups for name in group)
    for path in paths:
        if not path.is_file():
            raise DataError(path, "photographs needs the images in scikit-image's wheel", "no such file")
    return paths


def iterate_blocks(split: str, patch: int) -> Iterator[Block]:
    """Yield the patches of each group of a split, ``train`` or ``test``, one block for each group.

    Training patches overlap by half, and are cut from each photograph at full and at half size. Test patches do not overlap.
    """
    if split == "test":
        for path in find_photographs(TEST):
            yield cut_patches(np.asarray(read_image(path), np.uint8), patch, path)
        return
    for group in TRAIN:
        images = [image for path in find_photographs((group,)) for image in read_scales(path)]
        large = [image for image in images if min(image.shape[:2]) >= patch]
        if not large:
            raise DataError(group[0], f"must be at least data.patch = {patch} pixels high and wide", "a smaller one")
        yield np.concatenate([cut_overlapping(image, patch) for image in large])


def cut_overlapping(image: Block, patch: int) -> Block:
    """Return the patches of an image that overlap by half.

    Examples
    --------
    >>> cut_overlapping(np.zeros((64, 96, 3), np.uint8), 32).shape
    (15, 32, 32, 3)
    """
    step = patch // 2
    windows = np.lib.stride_tricks.sliding_window_view(image, (patch, patch), (0, 1))[::step, ::step]
    return np.moveaxis(windows, 2, -1).reshape(-1, patch, patch, image.shape[2])


def read_scales(path: Path) -> tuple[Block, Block]:
    """Return a photograph at full and at half size."""
    from PIL import Image

    image = np.asarray(read_image(path), np.uint8)
    return image, np.asarray(Image.fromarray(image).reduce(2))
