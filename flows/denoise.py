"""The denoising flow: a folder of images through a model, in batches; what is done is not done again."""

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

    runtime.configure(terminal=True)  # the terminal is for one summary
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
"""One reads and writes while the other one's images are in the model, which takes them one after the other."""
KEPT_HOURS = 24
logger = logging.getLogger("dae.denoise")  # of the library: its warnings reach server and terminal


class FilesNotRestored(RuntimeError):  # noqa: N818  (an outcome of the flow, told by its name)
    """Some files could not be restored; the message names each, and all the others are done."""


class DenoisedFolder(FrozenModel):
    """How many files were restored, how many had been before, and by which model."""

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

    Stopped at any point, it goes on where it was: every finished file has a record in `output`, under ``.dae/``. A file is done
    again when it has changed; what another model made is left unless `overwrite` is given. Images that the model would likely
    harm are restored if `anyway` is given.

    Raises
    ------
    FilesNotRestored
        At the end, naming every file that could not be restored.
    """
    located = None if model.endswith(".keras") else models.locate_model(model)
    if located is not None:
        protect_run(located.run_id, KEPT_HOURS)  # from dae gc
    reference = located.uri if located else models.resolve_reference(model)
    jobs = plan_files([str(folder)], output)
    batches = [jobs[start : start + batch] for start in range(0, len(jobs), batch)]
    futures = denoise.map(batches, *map(unmapped, (output, reference, overwrite, anyway)))
    outcomes = [outcome for future in futures for outcome in future.result()]
    _warn(outcomes)
    concerns = WarningLog()
    if errors := [error for outcome in outcomes if (error := concerns.error(outcome))]:
        raise FilesNotRestored(f"{len(errors)} of {len(jobs)} files were not restored:\n" + "\n".join(errors))
    skipped = Counter(outcome.skipped for outcome in outcomes)
    return DenoisedFolder(model=reference, restored=skipped[False], skipped=skipped[True])


def _warn(outcomes: Sequence[FileResult]) -> None:
    concerns = WarningLog()
    for outcome in outcomes:
        for warning in concerns.new(outcome):
            logger.warning(warning)
    if total := concerns.total(len(outcomes)):
        logger.warning(total)


def main(
    folder: Path,
    output: Path,
    model: str = CHAMPION,
    batch: int = 16,
    overwrite: bool = False,
    anyway: bool = False,
) -> None:
    """Restore the images of a folder; what was restored before is not restored again."""
    try:
        with temporary_settings({PREFECT_API_URL: api_url()}):
            done = denoise_folder(folder, output, model, batch, overwrite, anyway)
    except (FilesNotRestored, PlanError, models.ModelError, local_server.ServerError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, PlanError) else 1) from error
    files = f"{done.restored} file{'' if done.restored == 1 else 's'}"
    typer.echo(f"{files} restored with {done.model}, {done.skipped} done before.")


if __name__ == "__main__":
    import typer

    typer.run(main)
