"""``dae denoise``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dae import runtime
from dae.cli import options

if TYPE_CHECKING:
    from rich.progress import Progress

    from dae.inference.files import FileJob


def denoise(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT", help="Files, folders or patterns: PNG, JPEG, TIFF and .npy.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A folder; or a file, where the input is one.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="models:/NAME@ALIAS, models:/NAME/VERSION, a version number of dae, a run id, or a .keras file."
        ),
    ] = "models:/dae@champion",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing; the noise is not looked at.")
    ] = False,
    tile: Annotated[
        int, typer.Option(min=64, help="Side in pixels of the tiles that large images are cut into.")
    ] = 512,
    strength: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the restored image in the output; the rest is the input as it came."),
    ] = 1.0,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Restore also images that the model would likely harm.")
    ] = False,
) -> None:
    """Restore image files with a stored model; format, type, size, alpha and range stay as they are."""
    with runtime.stop_on_sigterm(), options.reported():
        jobs = _plan(inputs, output)
        if dry_run:
            done = _describe(jobs, model, overwrite=overwrite)
        else:
            done = restore_files(jobs, model, output, tile, strength, overwrite=overwrite, anyway=anyway)
    if not done:
        raise typer.Exit(options.ERROR)


def _plan(inputs: list[str], output: Path) -> tuple[FileJob, ...]:

    from dae.inference.files import PlanError, plan_files

    try:
        return plan_files(inputs, output)
    except PlanError as error:
        raise options.fail(str(error), options.USAGE) from error


def _describe(jobs: Sequence[FileJob], model: str, *, overwrite: bool) -> bool:
    """Print what would be done; return whether all of it can be."""
    from dae.data import formats
    from dae.data.arrays import DataError
    from dae.inference.files import load_denoiser, require_writable_output

    reference = load_denoiser(model).name
    failed = 0
    for job in jobs:
        try:
            described = formats.describe(job.input)
            there = os.path.lexists(job.output)
            if overwrite or not there:
                require_writable_output(job.output, overwrite=overwrite)
        except Exception as error:  # noqa: BLE001  (one bad file must not keep the others from being told)
            said = str(error) if isinstance(error, DataError) else f"{job.input}: {type(error).__name__}: {error}"
            _tell_error(said)
            failed += 1
            continue
        failed += there and not overwrite
        note = (" (is there: would be replaced)" if overwrite else " (is there: would be left)") if there else ""
        typer.echo(f"{job.input} -> {job.output}: {described}{note}")
    left = f", {failed} would not be done" if failed else ""
    typer.echo(f"{_files(len(jobs) - failed)} would be restored with {reference}{left}.")
    return not failed


def restore_files(
    jobs: Sequence[FileJob],
    model: str,
    output: Path,
    tile: int = 512,
    strength: float = 1.0,
    *,
    overwrite: bool = False,
    anyway: bool = False,
) -> bool:
    """Restore the files one after the other; return whether all of them are done."""
    from dae.inference.files import WarningLog, denoise_file, load_denoiser

    denoiser = load_denoiser(model, tile=tile, strength=strength)
    concerns = WarningLog()
    failed = 0
    with _progress(len(jobs)) as bar:
        (task,) = bar.task_ids
        for number, job in enumerate(jobs):
            bar.update(task, description=job.input.name)
            outcome = denoise_file(
                denoiser,
                job,
                overwrite=overwrite,
                anyway=anyway,
                progress=lambda share: bar.advance(task, share),
            )
            bar.update(task, completed=number + 1)
            _tell(bar, concerns.error(outcome), concerns.new(outcome))
            failed += outcome.error is not None
    if total := concerns.total(len(jobs)):
        _tell_warning(total)
    left = f", {failed} not done" if failed else ""
    typer.echo(f"{_files(len(jobs) - failed)} restored with {denoiser.name} to {output}{left}.")
    return not failed


@contextmanager
def _progress(files: int) -> Iterator[Progress]:
    """Show a bar on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task("", total=files)
        yield bar


def _tell(bar: Progress, error: str | None, warnings: Sequence[str]) -> None:
    from rich.text import Text

    if error:
        bar.console.print(Text.assemble(("error: ", "red"), error), soft_wrap=True)
    for warning in warnings:
        bar.console.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)


def _tell_error(message: str) -> None:
    typer.secho("error: ", fg="red", err=True, nl=False)
    typer.echo(message, err=True)


def _tell_warning(message: str) -> None:
    typer.secho("warning: ", fg="yellow", err=True, nl=False)
    typer.echo(message, err=True)


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"
