"""Arrivals: the new images in a watched folder, read as they are trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dae import storage
from dae.data import datasets, folders
from dae.data.sources import Part
from dae.schemas import ImageSet


@dataclass(frozen=True)
class NewImages:
    """The new images, and a digest of their files' bytes, whatever the files are called; or why they were not read."""

    images: ImageSet | None = None
    digest: str | None = None
    trouble: str = ""


def read_new_images(
    watched: str | None, least: int, shape: tuple[int, int, int], patch: int | None, target: Path
) -> NewImages:
    """Store the images of a watched folder as one set, if there are enough; files that are being written are left out.

    Parameters
    ----------
    watched : str, optional
        The folder; relative paths start at the project's.
    least : int
        How many files are enough.
    shape : tuple of int
        ``(H, W, C)`` that each image, or each of its patches, must have.
    patch : int, optional
        Side in pixels of the patches that images are cut into.
    target : Path
        Folder of the set.

    Raises
    ------
    DataError
        If an image cannot be read, or has another shape.
    """
    if watched is None:
        return NewImages(trouble="no folder is watched")
    place = storage.resolve_path(watched)
    if not place.is_dir():
        return NewImages(trouble=f"there is no folder {place}")
    files = folders.find_finished_files(place)
    if len(files) < least:
        return NewImages(trouble=f"{place} must hold {least} images to be judged, and holds {len(files) or 'none'}")
    images = datasets.store_part(Part(lambda: folders.iterate_blocks(files, patch, shape)), str(place), target)
    digests = "".join(sorted(map(storage.file_sha256, files)))
    return NewImages(images, hashlib.sha256(digests.encode()).hexdigest())
