"""What was restored before is not restored again: a small record of every finished file, beside the outputs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dae import storage
from dae.inference.denoiser import ImageDenoiser
from dae.inference.files import FileJob, FileResult, denoise_file
from dae.schemas import FrozenModel

FOLDER = ".dae"
LONGEST = 250


class FinishedFile(FrozenModel):
    """One output: the digests of what it was made of and of itself, the model, and when.

    Attributes
    ----------
    replaces_sha256 : str or None
        Digest of the file that was there before. The record is written first, so a process that is killed between the two
        leaves that one under it.
    """

    input_sha256: str
    output_sha256: str
    replaces_sha256: str | None
    model: str
    finished: str


def denoise_unfinished(
    jobs: Sequence[FileJob],
    out: Path,
    model: str,
    load: Callable[[], ImageDenoiser],
    *,
    overwrite: bool = False,
    anyway: bool = False,
) -> list[FileResult]:
    """Restore those of some files that are not done.

    Parameters
    ----------
    jobs : sequence of Job
        Their outputs below `out`.
    out : pathlib.Path
        The folder with the records, in ``.dae/``.
    model : str
        Reference that names one model for good.
    load : callable
        Returns it; called if there is something to do.
    overwrite : bool
        Do again what another model made, and replace files that have no record.
    anyway : bool
        Restore also where the model would likely do harm.

    Returns
    -------
    list of Outcome
        One a job. A file is done if its record has the input's digest and the output's; whichever model made it, unless
        `overwrite` is given. An output that was made here is replaced when its input has changed; any other is an error.
    """
    return [_one(job, out, model, load, overwrite=overwrite, anyway=anyway) for job in jobs]


def _one(
    job: FileJob, out: Path, model: str, load: Callable[[], ImageDenoiser], *, overwrite: bool, anyway: bool
) -> FileResult:
    record = out / FOLDER / job.output.relative_to(out).with_name(_record_name(job.output.name))
    try:
        before, digest, present = _read(record), storage.file_sha256(job.input), _digest(job.output)
    except OSError as error:
        return FileResult(input=job.input, output=job.output, error=f"{job.input}: cannot be read: {error}")
    ours = before is not None and present in (before.output_sha256, before.replaces_sha256)
    if before is not None and (digest, present) == (before.input_sha256, before.output_sha256):  # noqa: SIM102
        if before.model == model or not overwrite:
            return FileResult(input=job.input, output=job.output, skipped=True)

    def finished(draft: Path) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = FinishedFile(
            input_sha256=digest,
            output_sha256=storage.file_sha256(draft),
            replaces_sha256=present,
            model=model,
            finished=now,
        )
        storage.write_text(record, made.model_dump_json(indent=1) + "\n")

    replace = overwrite or (ours and present is not None)
    return denoise_file(load(), job, overwrite=replace, anyway=anyway, finished=finished)


def _record_name(name: str) -> str:
    """Return a name no longer than file systems take."""
    encoded = os.fsencode(name)
    return f"{name}.json" if len(encoded) <= LONGEST else f"{hashlib.sha256(encoded).hexdigest()}.json"


def _digest(path: Path) -> str | None:
    return storage.file_sha256(path) if path.is_file() else None


def _read(record: Path) -> FinishedFile | None:
    """Return a record; one that cannot be understood is none."""
    try:
        return FinishedFile.model_validate_json(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
