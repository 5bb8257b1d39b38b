"""Image files through a stored model: which files, where each one goes, and restoring them one at a time."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dae import storage
from dae.data import formats
from dae.data.arrays import DataError, ImageError, Pixels
from dae.data.formats import FORMATS, same_format
from dae.inference.denoiser import TILE, ImageDenoiser
from dae.schemas import DomainWarning, FrozenModel

CHAMPION = "models:/dae@champion"


class FileResult(FrozenModel):
    """What became of one file: restored, left as it was because that was done before, or not done for a reason.

    `concerns` says how it differs from what the model was made for, and `harm` that it was not done for that.
    """

    input: Path
    output: Path
    concerns: tuple[DomainWarning, ...] = ()
    error: str | None = None
    skipped: bool = False
    harm: bool = False


class LikelyHarmError(ValueError):
    """The model was not made for such an image, and would likely do harm."""


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
        If it is no model of images.
    """
    from dae import runtime

    runtime.import_keras()
    from dae.tracking import models

    opened = models.open_model(reference)
    name = opened.located.uri if opened.located else reference
    return ImageDenoiser(opened.model, name, opened.trained_on, tile, strength)


class WarningLog:
    """What was said of files that differ from what the model was made for: each thing once, however many files it holds for."""

    def __init__(self) -> None:
        self.files = 0
        self._said: set[tuple[str, str]] = set()
        self._refused: set[tuple[str, str]] = set()

    def new(self, outcome: FileResult) -> list[str]:
        """Return what is to be said of a file that was not said of another, but for what its error says."""
        self.files += bool(outcome.concerns)
        left = [each for each in outcome.concerns if outcome.error is None or not each.harmful]
        found = [each for each in left if (each.about, each.advice) not in self._said]
        self._said |= {(each.about, each.advice) for each in found}
        return [f"{outcome.input}: {each}" for each in found]

    def error(self, outcome: FileResult) -> str | None:
        """Return why a file was not restored, in short where another was not for the same reasons."""
        harmful = {(each.about, each.advice) for each in outcome.concerns if each.harmful}
        if outcome.error is None or not outcome.harm:
            return outcome.error
        said = harmful <= self._refused
        self._refused |= harmful
        return f"{outcome.input}: not restored, for the same reason as one above" if said else outcome.error

    def total(self, files: int) -> str | None:
        """Return how many of all the files it holds for; None where it was said of each of them."""
        return f"{self.files} of {files} files are unlike what the model was made for" if self.files > 1 else None


def require_writable_output(output: Path, *, overwrite: bool) -> None:
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
    job: FileJob,
    *,
    overwrite: bool = False,
    anyway: bool = False,
    progress: Callable[[float], None] = lambda share: None,
    finished: Callable[[Path], None] = lambda draft: None,
) -> FileResult:
    """Restore one file. Whatever is wrong with it is told in the outcome; the output is there whole or not at all.

    Parameters
    ----------
    denoiser : ImageDenoiser
    job : Job
    overwrite : bool
        Replace an output that is there.
    anyway : bool
        Restore it even where the model would likely do harm.
    progress : callable
        Told which further share of the file is done.
    finished : callable
        Called with the path of the finished draft, before it becomes the output.
    """
    concerns: list[DomainWarning] = []
    try:
        require_writable_output(job.output, overwrite=overwrite)
        described = formats.describe(job.input)
        total, page = described.pages * described.shape[0], 0

        def restore(images: Pixels) -> Pixels:
            nonlocal page
            page += len(images)
            try:
                known = {concern.about for concern in concerns}
                concerns.extend(concern for concern in denoiser.concerns(images) if concern.about not in known)
                if not anyway and (harmful := [concern for concern in concerns if concern.harmful]):
                    raise LikelyHarmError("; ".join(map(str, harmful)))
                in_place = bool(images.flags.writeable)
                return denoiser.restore(images, lambda rows: progress(rows / total), in_place=in_place)
            except ImageError as error:
                raise DataError(job.input, error.rule, error.found) from error

        with storage.atomic_write(job.output, overwrite=overwrite) as draft:
            formats.rewrite(job.input, draft, restore)
            finished(draft)
    except FileExistsError:  # it came to be there meanwhile
        return FileResult(input=job.input, output=job.output, error=str(_there(job.output)))
    except LikelyHarmError as error:
        said = f"{job.input}: not restored, since {error}; --anyway restores it all the same"
        return FileResult(input=job.input, output=job.output, error=said, concerns=tuple(concerns), harm=True)
    except DataError as error:
        return FileResult(input=job.input, output=job.output, error=str(error))
    except Exception as error:  # noqa: BLE001  (one bad file must not stop the others)
        return FileResult(
            input=job.input, output=job.output, error=f"{job.input}: not restored: {type(error).__name__}: {error}"
        )
    return FileResult(input=job.input, output=job.output, concerns=tuple(concerns))


class PlanError(ValueError):
    """Inputs and output do not go together; nothing was read or written."""


class FileJob(FrozenModel):
    """One file to restore, and where it goes."""

    input: Path
    output: Path


def plan_files(inputs: Sequence[str], out: Path) -> tuple[FileJob, ...]:
    """Return what is to be done.

    Parameters
    ----------
    inputs : sequence of str
        Files, folders and glob patterns. Of folders, and of what a pattern matches, image files alone are taken, and none that
        is hidden or lies in `out`; their places below the folder, or below the fixed part of the pattern, are kept.
    out : pathlib.Path
        A folder, made when it is needed; or, for a single input file, a file of its format.

    Raises
    ------
    PlanError
        If an input is missing or empty, if two files would become one, or one of the inputs would be written to.
    """
    pairs = [pair for given in inputs for pair in _files(given, out)]
    found = list({(_real(file), place): (file, place) for file, place in reversed(pairs)}.values())[::-1]
    folder = next((path for path in (out, *out.parents) if os.path.lexists(path)), Path())
    if folder != out and not folder.is_dir():
        raise PlanError(f"the output must lie in a folder; {folder} is a file")
    if _is_file(out):
        return (_single(inputs, found, out),)
    if out.exists() and not out.is_dir():
        raise PlanError(f"the output must be a folder, or an image file for a single one; {out} is a file")
    jobs = tuple(FileJob(input=file, output=out / place) for file, place in found)
    _require_apart(jobs)
    return jobs


def _is_file(out: Path) -> bool:
    return out.suffix.lower() in FORMATS and not out.is_dir()


def _single(inputs: Sequence[str], found: list[tuple[Path, Path]], out: Path) -> FileJob:
    if len(found) != 1 or not Path(inputs[0]).is_file():
        raise PlanError(f"the output must be a folder unless the input is a single file; received {out}")
    job = FileJob(input=found[0][0], output=out)
    if not same_format(job.input, out):
        raise PlanError(f"the output must be of the input's format, {job.input.suffix}; received {out}")
    _require_apart((job,))
    return job


def _files(given: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files an input stands for, each with its place below the output."""
    path = Path(given)
    if path.is_file():
        if path.suffix.lower() not in FORMATS:
            raise PlanError(f"{path}: must be one of {', '.join(FORMATS)}; found {path.suffix or 'no suffix'}")
        yield path, Path(path.name)
        return
    if path.is_dir():
        root, matched = path, [path]
    elif glob.has_magic(given):
        root = _fixed_part(path)
        # Path.glob takes no absolute pattern.
        matched = [Path(match) for match in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207
    else:
        raise PlanError(f"{given}: must be a file, a folder or a pattern; found nothing there")
    files = sorted({file for match in matched for file in _below(match, root, out)})
    if not files:
        raise PlanError(f"{given}: must lead to image files ({', '.join(FORMATS)}); found none")
    yield from ((file, file.relative_to(root)) for file in files)


def _fixed_part(pattern: Path) -> Path:
    parts = pattern.parts
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def _below(match: Path, root: Path, out: Path) -> Iterator[Path]:
    inner = _real(out) if _real(out) != _real(root) else None
    for file in match.rglob("*") if match.is_dir() else (match,):
        hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
        own = inner is not None and inner in _real(file).parents
        if file.suffix.lower() in FORMATS and not hidden and not own and (file.is_file() or _leads_nowhere(file)):
            yield file


def _leads_nowhere(file: Path) -> bool:
    """Tell whether a path is a link to nothing: its reader says so, and the other files are done."""
    return file.is_symlink() and not file.exists()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises on links that lead in a circle


def _require_apart(jobs: tuple[FileJob, ...]) -> None:
    sources = {_real(job.input) for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        place = _real(job.output)
        if place in sources:
            raise PlanError(f"{job.output}: must not be an input; choose another output")
        if place in taken:
            raise PlanError(f"{job.output}: must come of one input; found {taken[place]} and {job.input}")
        taken[place] = job.input
