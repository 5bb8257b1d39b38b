"""Image files through a stored model: plan which files go where, and restore them one at a time."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dae import storage
from dae.data import formats
from dae.data.arrays import DataError, ImageError, Pixels
from dae.data.formats.base import ImageInfo, Restore
from dae.inference.denoiser import TILE, ImageDenoiser
from dae.schemas import DomainWarning, FrozenModel

CHAMPION = "models:/dae@champion"


class FileResult(FrozenModel):
    """The result for one file: it is restored, it was skipped because it is already restored, or there is an error.

    Attributes
    ----------
    input, output : pathlib.Path
    warnings : tuple of DomainWarning
        How the image differs from the images that the model was made for.
    error : str or None
        Why the file is not restored.
    skipped : bool
        Whether it was restored before.
    harm : bool
        Whether it is not restored because the model would likely harm it.
    """

    input: Path
    output: Path
    warnings: tuple[DomainWarning, ...] = ()
    error: str | None = None
    skipped: bool = False
    harm: bool = False


class LikelyHarmError(ValueError):
    """The model was not made for such an image, and would likely harm it."""


def load_denoiser(reference: str = CHAMPION, *, tile: int = TILE, strength: float = 1.0) -> ImageDenoiser:
    """Return a stored model, ready for images of any size and type.

    Parameters
    ----------
    reference : str
        ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, a version number of ``dae``, a run id or a ``.keras`` file.
    tile : int
        Side of the tiles that larger images are cut into, in pixels.
    strength : float
        Share of the restored image in what is returned, from 0 to 1.

    Raises
    ------
    ModelError
        If there is no such model, or it cannot be read.
    ValueError
        If it is not a model of images.
    """
    from dae import runtime

    runtime.import_keras()
    from dae.tracking import models

    stored = models.open_model(reference)
    name = stored.located.uri if stored.located else reference
    return ImageDenoiser(stored.model, name, stored.trained_on, tile, strength)


class WarningLog:
    """The warnings about the files of one run. Each warning is shown once, for the first of the files that it applies to."""

    def __init__(self) -> None:
        self.files = 0
        self._shown: set[tuple[str, str]] = set()
        self._refused: set[tuple[str, str]] = set()

    def new(self, result: FileResult) -> list[str]:
        """Return the warnings about a file that were not shown for another file and are not part of its error."""
        self.files += bool(result.warnings)
        warnings = [warning for warning in result.warnings if result.error is None or not warning.harmful]
        unseen = [warning for warning in warnings if _key(warning) not in self._shown]
        self._shown |= {_key(warning) for warning in unseen}
        return [f"{result.input}: {warning}" for warning in unseen]

    def error(self, result: FileResult) -> str | None:
        """Return why a file is not restored; the text is short if an earlier file was refused for the same reasons."""
        if result.error is None or not result.harm:
            return result.error
        reasons = {_key(warning) for warning in result.warnings if warning.harmful}
        repeated = reasons <= self._refused
        self._refused |= reasons
        return f"{result.input}: not restored, for the same reason as one above" if repeated else result.error

    def total(self, files: int) -> str | None:
        """Return the number of files with warnings, out of all files; None if there is at most one."""
        return f"{self.files} of {files} files are unlike what the model was made for" if self.files > 1 else None


def _key(warning: DomainWarning) -> tuple[str, str]:
    return warning.about, warning.advice


def require_writable_output(output: Path, *, overwrite: bool) -> None:
    """Check that an output can be written, before any work is done.

    Raises
    ------
    DataError
        If the output exists and may not be replaced, if it is a folder, or if its folder cannot be made or written to.
    """
    if output.is_dir():
        raise DataError(output, "must be a file", "a folder")
    if os.path.lexists(output) and not overwrite:
        raise _exists(output)
    folder = _nearest_existing(output.parents)
    if not folder.is_dir():
        raise DataError(output, "must lie in a folder", f"{folder}, which is none")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(output, "must lie in a folder that can be written to", f"{folder}, which cannot")


def _nearest_existing(paths: Sequence[Path]) -> Path:
    return next((path for path in paths if os.path.lexists(path)), Path())


def _exists(output: Path) -> DataError:
    return DataError(output, "must not be there yet, unless it may be overwritten", "a file")


def denoise_file(
    denoiser: ImageDenoiser,
    job: FileJob,
    *,
    overwrite: bool = False,
    anyway: bool = False,
    progress: Callable[[float], None] = lambda share: None,
    finished: Callable[[Path], None] = lambda draft: None,
) -> FileResult:
    """Restore one file. Errors are part of the result, and no incomplete output is left behind.

    Parameters
    ----------
    denoiser : ImageDenoiser
    job : FileJob
    overwrite : bool
        Replace an existing output.
    anyway : bool
        Restore the image even if the model would likely harm it.
    progress : callable
        Is called with the share of the file that was restored since the last call, from 0 to 1.
    finished : callable
        Is called with the path of the complete draft, before the draft becomes the output.

    Returns
    -------
    FileResult
    """
    warnings: list[DomainWarning] = []
    try:
        require_writable_output(job.output, overwrite=overwrite)
        with formats.open_image(job.input) as image, storage.atomic_write(job.output, overwrite=overwrite) as draft:
            image.rewrite(draft, _make_restore(denoiser, image.info, warnings, progress, anyway=anyway))
            finished(draft)
    except Exception as error:  # noqa: BLE001  (one bad file must not stop the others)
        return _failure(job, error, warnings)
    return FileResult(input=job.input, output=job.output, warnings=tuple(warnings))


def _make_restore(
    denoiser: ImageDenoiser,
    info: ImageInfo,
    warnings: list[DomainWarning],
    progress: Callable[[float], None],
    *,
    anyway: bool,
) -> Restore:
    """Return the function that restores the pages of a file. It adds to `warnings`, each subject once."""
    rows = info.pages * info.shape[0]

    def restore(images: Pixels) -> Pixels:
        subjects = {warning.about for warning in warnings}
        warnings.extend(warning for warning in denoiser.find_warnings(images) if warning.about not in subjects)
        harmful = [warning for warning in warnings if warning.harmful]
        if harmful and not anyway:
            raise LikelyHarmError("; ".join(map(str, harmful)))
        in_place = bool(images.flags.writeable)
        return denoiser.restore(images, lambda count: progress(count / rows), in_place=in_place)

    return restore


def _failure(job: FileJob, error: Exception, warnings: Sequence[DomainWarning]) -> FileResult:
    harm = isinstance(error, LikelyHarmError)
    match error:
        case FileExistsError():  # another process wrote the output while this one restored the file
            message = str(_exists(job.output))
        case LikelyHarmError():
            message = f"{job.input}: not restored, since {error}; --anyway restores it all the same"
        case ImageError():
            message = str(DataError(job.input, error.rule, error.found))
        case DataError():
            message = str(error)
        case _:
            message = f"{job.input}: not restored: {type(error).__name__}: {error}"
    return FileResult(
        input=job.input, output=job.output, error=message, warnings=tuple(warnings) if harm else (), harm=harm
    )


class PlanError(ValueError):
    """Inputs and output do not fit together; nothing was read or written."""


class FileJob(FrozenModel):
    """One file to restore, and its output."""

    input: Path
    output: Path


def plan_files(inputs: Sequence[str], out: Path) -> tuple[FileJob, ...]:
    """Return the files to restore, each with its output.

    Parameters
    ----------
    inputs : sequence of str
        Files, folders and glob patterns. From a folder, or from the matches of a pattern, only image files are taken, without
        hidden files and files in `out`. Their paths below the folder, or below the fixed part of the pattern, are kept.
    out : pathlib.Path
        A folder, which is made when it is needed; or a file of the same format, if the input is a single file.

    Raises
    ------
    PlanError
        If an input is missing or empty, if two inputs have one output, or if an output is one of the inputs.
    """
    pairs = [pair for name in inputs for pair in _list_files(name, out)]
    unique = list({(_real(file), place): (file, place) for file, place in reversed(pairs)}.values())[::-1]
    folder = _nearest_existing((out, *out.parents))
    if folder != out and not folder.is_dir():
        raise PlanError(f"the output must lie in a folder; {folder} is a file")
    if _is_image(out) and not out.is_dir():
        return (_plan_single(inputs, unique, out),)
    if out.exists() and not out.is_dir():
        raise PlanError(f"the output must be a folder, or an image file for a single one; {out} is a file")
    jobs = tuple(FileJob(input=file, output=out / place) for file, place in unique)
    _require_distinct(jobs)
    return jobs


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in formats.FORMATS


def _plan_single(inputs: Sequence[str], files: list[tuple[Path, Path]], out: Path) -> FileJob:
    if len(files) != 1 or not Path(inputs[0]).is_file():
        raise PlanError(f"the output must be a folder unless the input is a single file; received {out}")
    job = FileJob(input=files[0][0], output=out)
    if not formats.same_format(job.input, out):
        raise PlanError(f"the output must be of the input's format, {job.input.suffix}; received {out}")
    _require_distinct((job,))
    return job


def _list_files(name: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files of one input, each with its path below the output."""
    path = Path(name)
    suffixes = ", ".join(formats.FORMATS)
    if path.is_file():
        if not _is_image(path):
            raise PlanError(f"{path}: must be one of {suffixes}; found {path.suffix or 'no suffix'}")
        yield path, Path(path.name)
        return
    if path.is_dir():
        root, matches = path, [path]
    elif glob.has_magic(name):
        root = _fixed_part(path)
        # Path.glob accepts no absolute pattern.
        matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
    else:
        raise PlanError(f"{name}: must be a file, a folder or a pattern; found nothing there")
    files = sorted({file for match in matches for file in _list_below(match, root, out)})
    if not files:
        raise PlanError(f"{name}: must lead to image files ({suffixes}); found none")
    yield from ((file, file.relative_to(root)) for file in files)


def _fixed_part(pattern: Path) -> Path:
    parts = pattern.parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def _list_below(match: Path, root: Path, out: Path) -> Iterator[Path]:
    outputs = _real(out) if _real(out) != _real(root) else None
    for file in match.rglob("*") if match.is_dir() else (match,):
        hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
        is_output = outputs is not None and outputs in _real(file).parents
        if _is_image(file) and not hidden and not is_output and (file.is_file() or _is_broken_link(file)):
            yield file


def _is_broken_link(file: Path) -> bool:
    """Tell whether a path is a broken link. It is planned, so that its error is reported and the other files are restored."""
    return file.is_symlink() and not file.exists()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises on links that form a loop


def _require_distinct(jobs: tuple[FileJob, ...]) -> None:
    """Require that no output is an input or the output of another file."""
    sources = {_real(job.input) for job in jobs}
    inputs: dict[Path, Path] = {}
    for job in jobs:
        target = _real(job.output)
        if target in sources:
            raise PlanError(f"{job.output}: must not be an input; choose another output")
        if target in inputs:
            raise PlanError(f"{job.output}: must come of one input; found {inputs[target]} and {job.input}")
        inputs[target] = job.input
