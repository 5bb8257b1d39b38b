"""Denoise: restore a batch of image files, except those that were restored before."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from dae.inference import files, resume
from dae.inference.denoiser import ImageDenoiser
from dae.inference.files import FileJob, FileResult

_loading = threading.Lock()


@task(cache_policy=NO_CACHE)
def denoise(jobs: tuple[FileJob, ...], output: Path, model: str, overwrite: bool, anyway: bool) -> list[FileResult]:
    """Restore files. The outcome of a file that could not be restored has the error."""
    load = functools.partial(_model, model)
    outcomes = resume.denoise_unfinished(jobs, output, model, load, overwrite=overwrite, anyway=anyway)
    for outcome in outcomes:
        if outcome.error:
            get_run_logger().error(outcome.error)  # the flow repeats it for the terminal
    return outcomes


def _model(reference: str) -> ImageDenoiser:
    with _loading:
        return _loaded(reference)


@functools.lru_cache(maxsize=1)
def _loaded(reference: str) -> ImageDenoiser:
    """Return a model, which is loaded once for all batches of a process."""
    return files.load_denoiser(reference)
