"""Resuming: a small record of every finished file, beside the outputs, so that no file is restored twice."""

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
    """The record of one output.

    Attributes
    ----------
    input_sha256, output_sha256 : str
        Digests of the input and the output.
    replaces_sha256 : str or None
        Digest of the output's previous content. The record is written before the output, so if the process is killed between
        the two, the previous content is still there.
    model : str
        Reference of the model.
    finished : str
        Time in UTC, ISO 8601.
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
    """Restore the files that are not restored yet.

    Parameters
    ----------
    jobs : sequence of FileJob
        Their outputs are below `out`.
    out : pathlib.Path
        The folder with the records, in ``.dae/``.
    model : str
        Reference that always names the same model.
    load : callable
        Returns the model; it is called only for a file that is to be restored.
    overwrite : bool
        Restore again if another model made the output, and replace outputs that have no record.
    anyway : bool
        Restore an image even if the model would likely harm it.

    Returns
    -------
    list of FileResult
        One for each job. A file is skipped if its record has the digests of its input and its output, and the same model or no
        `overwrite`. An output with a record is replaced when its input has changed; any other existing output is an error.
    """
    return [_denoise_unless_finished(job, out, model, load, overwrite=overwrite, anyway=anyway) for job in jobs]


def _denoise_unless_finished(
    job: FileJob, out: Path, model: str, load: Callable[[], ImageDenoiser], *, overwrite: bool, anyway: bool
) -> FileResult:
    path = out / FOLDER / job.output.relative_to(out).with_name(_record_name(job.output.name))
    try:
        record, digest, existing = _read_record(path), storage.file_sha256(job.input), _digest(job.output)
    except OSError as error:
        return FileResult(input=job.input, output=job.output, error=f"{job.input}: cannot be read: {error}")
    if record and (digest, existing) == (record.input_sha256, record.output_sha256):  # noqa: SIM102
        if record.model == model or not overwrite:
            return FileResult(input=job.input, output=job.output, skipped=True)

    def write_record(draft: Path) -> None:
        finished_file = FinishedFile(
            input_sha256=digest,
            output_sha256=storage.file_sha256(draft),
            replaces_sha256=existing,
            model=model,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        storage.write_text(path, finished_file.model_dump_json(indent=1) + "\n")

    recorded = record is not None and existing in (record.output_sha256, record.replaces_sha256)
    replace = overwrite or (recorded and existing is not None)
    return denoise_file(load(), job, overwrite=replace, anyway=anyway, finished=write_record)


def _record_name(name: str) -> str:
    """Return the file name of a record, no longer than file systems allow."""
    encoded = os.fsencode(name)
    return f"{name}.json" if len(encoded) <= LONGEST else f"{hashlib.sha256(encoded).hexdigest()}.json"


def _digest(path: Path) -> str | None:
    return storage.file_sha256(path) if path.is_file() else None


def _read_record(path: Path) -> FinishedFile | None:
    """Return a record; None if there is none or it is damaged."""
    try:
        return FinishedFile.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
