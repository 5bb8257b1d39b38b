"""The denoising flow: it restores a folder of images in batches, and skips those that were restored before."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from dae.inference.files import PlanError, plan_files

if __name__ == "__main__":
    from dae import runtime
    from flows.deployment import local_server

    runtime.configure(terminal=True)  # the terminal shows one summary
    api_url = local_server.start_server()  # both before Prefect is imported

from prefect import flow, unmapped
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from dae.inference.files import CHAMPION, FileResult, WarningLog
from dae.schemas import FrozenModel
from dae.tracking import models
from dae.tracking.runs import protect_run
from tasks.denoise import denoise

RUNNER: Any = ThreadPoolTaskRunner(max_workers=2)
"""One reads and writes files while the other uses the model, which takes one batch at a time."""
KEPT_HOURS = 24
logger = logging.getLogger("dae.denoise")  # a library logger: its warnings reach both the server and the terminal


class FilesNotRestored(RuntimeError):  # noqa: N818  (the name describes an outcome of the flow)
    """Some files could not be restored. The message names each of them; all other files were restored."""


class DenoisedFolder(FrozenModel):
    """The model, and how many files it restored now and had restored before."""

    model: str
    restored: int
    skipped: int


@flow(name="denoise-folder", flow_run_name="{folder}", task_runner=RUNNER)
def denoise_folder(
    folder: Path,
    output: Path,
    model: str = CHAMPION,
    batch: Annotated[int, Field(ge=1)] = 16,
    overwrite: bool = False,
    anyway: bool = False,
) -> DenoisedFolder:
    """Restore the images of a folder and of those below it.

    A run that was stopped can be repeated: finished files have a record in `output`, under ``.dae/``, and are skipped. A file
    that has changed is restored again. Files that another model restored are replaced only if `overwrite` is True. Images that
    the model would likely harm are restored only if `anyway` is True.

    Raises
    ------
    FilesNotRestored
        At the end, naming every file that could not be restored.
    """
    located = None if model.endswith(".keras") else models.locate_model(model)
    if located is not None:
        protect_run(located.run_id, KEPT_HOURS)  # so that dae gc keeps it
    reference = located.uri if located else models.resolve_reference(model)
    jobs = plan_files([str(folder)], output)
    batches = [jobs[start : start + batch] for start in range(0, len(jobs), batch)]
    futures = denoise.map(batches, *map(unmapped, (output, reference, overwrite, anyway)))
    outcomes = [outcome for future in futures for outcome in future.result()]
    warning_log = WarningLog()
    _warn(outcomes, warning_log)
    if errors := [error for outcome in outcomes if (error := warning_log.error(outcome))]:
        raise FilesNotRestored(f"{len(errors)} of {len(jobs)} files were not restored:\n" + "\n".join(errors))
    skipped = Counter(outcome.skipped for outcome in outcomes)
    return DenoisedFolder(model=reference, restored=skipped[False], skipped=skipped[True])


def _warn(outcomes: Sequence[FileResult], warning_log: WarningLog) -> None:
    for outcome in outcomes:
        for warning in warning_log.new(outcome):
            logger.warning(warning)
    if total := warning_log.total(len(outcomes)):
        logger.warning(total)


def main(
    folder: Path,
    output: Path,
    model: str = CHAMPION,
    batch: int = 16,
    overwrite: bool = False,
    anyway: bool = False,
) -> None:
    """Restore the images of a folder, and skip those that were restored before."""
    try:
        with temporary_settings({PREFECT_API_URL: api_url()}):
            result = denoise_folder(folder, output, model, batch, overwrite, anyway)
    except (FilesNotRestored, PlanError, models.ModelError, local_server.ServerError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, PlanError) else 1) from error
    files = f"{result.restored} file{'' if result.restored == 1 else 's'}"
    typer.echo(f"{files} restored with {result.model}, {result.skipped} done before.")


if __name__ == "__main__":
    import typer

    typer.run(main)
