"""Which image files are to be restored, and where each one goes: all that can be wrong about it is told before any work."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dae.data.formats import FORMATS, same_format
from dae.schemas import Frozen


class PlanError(ValueError):
    """Inputs and output do not go together; nothing was read or written."""


class Job(Frozen):
    """One file to restore, and where it goes."""

    input: Path
    output: Path


def plan(inputs: Sequence[str], out: Path) -> tuple[Job, ...]:
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
    jobs = tuple(Job(input=file, output=out / place) for file, place in found)
    _require_apart(jobs)
    return jobs


def _is_file(out: Path) -> bool:
    return out.suffix.lower() in FORMATS and not out.is_dir()


def _single(inputs: Sequence[str], found: list[tuple[Path, Path]], out: Path) -> Job:
    if len(found) != 1 or not Path(inputs[0]).is_file():
        raise PlanError(f"the output must be a folder unless the input is a single file; received {out}")
    job = Job(input=found[0][0], output=out)
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


def _require_apart(jobs: tuple[Job, ...]) -> None:
    sources = {_real(job.input) for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        place = _real(job.output)
        if place in sources:
            raise PlanError(f"{job.output}: must not be an input; choose another output")
        if place in taken:
            raise PlanError(f"{job.output}: must come of one input; found {taken[place]} and {job.input}")
        taken[place] = job.input
