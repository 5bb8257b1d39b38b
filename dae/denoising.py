"""A stored model at work: opened by reference, and put to files one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dae import image_files, store
from dae.file_plan import Job
from dae.image_denoiser import TILE, ImageDenoiser
from dae.image_format import ImageError, Pixels
from dae.pixels import DataError
from dae.records import Frozen

CHAMPION = "models:/dae@champion"


class Outcome(Frozen):
    """What became of one file: restored, left as it was because that was done before, or not done for a reason."""

    input: Path
    output: Path
    warnings: tuple[str, ...] = ()
    error: str | None = None
    skipped: bool = False


def load(reference: str = CHAMPION, *, tile: int = TILE) -> ImageDenoiser:
    """Return a stored model, ready for images of any size and type.

    Parameters
    ----------
    reference : str
        ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, a version number of ``dae``, a run id or a ``.keras`` file.
    tile : int
        Side of the tiles that larger images are cut into, in pixels.

    Raises
    ------
    ModelError
        If there is no such model, or it cannot be read.
    ValueError
        If it is no model of images.
    """
    from dae import backend

    backend.import_keras()
    from dae import models

    opened = models.open_model(reference)
    return ImageDenoiser(opened.model, opened.located.uri if opened.located else reference, opened.trained_on, tile)


def require_place(output: Path, *, overwrite: bool) -> None:
    """Tell before any work what would keep a file from being written.

    Raises
    ------
    DataError
        If something is there that may not be replaced, or a folder is, or the folder it goes to cannot be made or written to.
    """
    if output.is_dir():
        raise DataError(output, "must be a file", "a folder")
    if os.path.lexists(output) and not overwrite:
        raise _there(output)
    folder = next((parent for parent in output.parents if os.path.lexists(parent)), Path())
    if not folder.is_dir():
        raise DataError(output, "must lie in a folder", f"{folder}, which is none")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(output, "must lie in a folder that can be written to", f"{folder}, which cannot")


def _there(output: Path) -> DataError:
    return DataError(output, "must not be there yet, unless it may be overwritten", "a file")


def denoise_file(
    denoiser: ImageDenoiser,
    job: Job,
    *,
    overwrite: bool = False,
    progress: Callable[[float], None] = lambda share: None,
    finished: Callable[[Path], None] = lambda draft: None,
) -> Outcome:
    """Restore one file. Whatever is wrong with it is told in the outcome; the output is there whole or not at all.

    Parameters
    ----------
    denoiser : ImageDenoiser
    job : Job
    overwrite : bool
        Replace an output that is there.
    progress : callable
        Told which further share of the file is done.
    finished : callable
        Called with the path of the finished draft, before it becomes the output.
    """
    concerns: list[str] = []
    try:
        require_place(job.output, overwrite=overwrite)
        described = image_files.describe(job.input)
        total, page = described.pages * described.shape[0], 0

        def restore(images: Pixels) -> Pixels:
            nonlocal page
            page += len(images)
            try:
                if not concerns:
                    concerns.extend(denoiser.concerns(images))
                in_place = bool(images.flags.writeable)
                return denoiser.restore(images, lambda rows: progress(rows / total), in_place=in_place)
            except ImageError as error:
                raise DataError(job.input, error.rule, error.found) from error

        with store.drafted(job.output, overwrite=overwrite) as draft:
            image_files.rewrite(job.input, draft, restore)
            finished(draft)
    except FileExistsError:  # it came to be there meanwhile
        return Outcome(input=job.input, output=job.output, error=str(_there(job.output)))
    except DataError as error:
        return Outcome(input=job.input, output=job.output, error=str(error))
    except Exception as error:  # noqa: BLE001  (one bad file must not stop the others)
        return Outcome(
            input=job.input, output=job.output, error=f"{job.input}: not restored: {type(error).__name__}: {error}"
        )
    return Outcome(input=job.input, output=job.output, warnings=tuple(concerns))
