"""New images in a watched folder, read in the same way as images for training."""

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
    """The new images and a digest of the bytes of their files, independent of the names; or the reason why there are none."""

    images: ImageSet | None = None
    digest: str | None = None
    trouble: str = ""


def read_new_images(
    watched: str | None, min_count: int, shape: tuple[int, int, int], patch: int | None, target: Path
) -> NewImages:
    """Store the images of a watched folder as one set if there are enough. Files that are still being written are left out.

    Parameters
    ----------
    watched : str, optional
        The folder; a relative path starts at the project folder.
    min_count : int
        Fewer files are not read.
    shape : tuple of int
        ``(H, W, C)`` of each image, or of each of its patches.
    patch : int, optional
        Side length in pixels of the patches that images are cut into.
    target : Path
        Folder for the set.

    Raises
    ------
    DataError
        If an image cannot be read, or has another shape.
    """
    if watched is None:
        return NewImages(trouble="no folder is watched")
    folder = storage.resolve_path(watched)
    if not folder.is_dir():
        return NewImages(trouble=f"there is no folder {folder}")
    files = folders.find_finished_files(folder)
    if len(files) < min_count:
        return NewImages(
            trouble=f"{folder} must hold {min_count} images to be judged, and holds {len(files) or 'none'}"
        )
    images = datasets.store_part(Part(lambda: folders.iterate_blocks(files, patch, shape)), str(folder), target)
    digests = "".join(sorted(map(storage.file_sha256, files)))
    return NewImages(images, hashlib.sha256(digests.encode()).hexdigest())
