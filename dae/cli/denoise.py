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
            help="A folder, or a file if the input is one file.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="models:/NAME@ALIAS, models:/NAME/VERSION, a version number of dae, a run id, or a .keras file."
        ),
    ] = "models:/dae@champion",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be done, and write nothing. The noise is not measured.")
    ] = False,
    tile: Annotated[
        int, typer.Option(min=64, help="Side in pixels of the tiles that large images are cut into.")
    ] = 512,
    strength: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the restored image in the output; the rest is the noisy input."),
    ] = 1.0,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also restore images that the model would likely harm.")
    ] = False,
) -> None:
    """Restore image files with a stored model. Format, pixel type, size, alpha channel and value range do not change."""
    with runtime.stop_on_sigterm(), options.reported():
        jobs = _plan(inputs, output)
        if dry_run:
            complete = _describe(jobs, model, overwrite=overwrite)
        else:
            complete = restore_files(jobs, model, output, tile, strength, overwrite=overwrite, anyway=anyway)
    if not complete:
        raise typer.Exit(options.ERROR)


def _plan(inputs: list[str], output: Path) -> tuple[FileJob, ...]:
    from dae.inference.files import PlanError, plan_files

    try:
        return plan_files(inputs, output)
    except PlanError as error:
        raise options.fail(str(error), options.USAGE) from error


def _describe(jobs: Sequence[FileJob], model: str, *, overwrite: bool) -> bool:
    """Print what would be done. Return whether all files can be restored."""
    from dae.data import formats
    from dae.data.arrays import DataError
    from dae.inference.files import load_denoiser, require_writable_output

    reference = load_denoiser(model).name
    failed = 0
    for job in jobs:
        try:
            description = formats.describe(job.input)
            exists = os.path.lexists(job.output)
            if overwrite or not exists:
                require_writable_output(job.output, overwrite=overwrite)
        except Exception as error:  # noqa: BLE001  (the other files are listed all the same)
            message = str(error) if isinstance(error, DataError) else f"{job.input}: {type(error).__name__}: {error}"
            _print_error(message)
            failed += 1
            continue
        failed += exists and not overwrite
        note = (" (exists: would be replaced)" if overwrite else " (exists: would be skipped)") if exists else ""
        typer.echo(f"{job.input} -> {job.output}: {description}{note}")
    rest = f", {failed} would not be done" if failed else ""
    typer.echo(f"{_files(len(jobs) - failed)} would be restored with {reference}{rest}.")
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
    """Restore the files one after the other. Return whether all of them are restored."""
    from dae.inference.files import WarningLog, denoise_file, load_denoiser

    denoiser = load_denoiser(model, tile=tile, strength=strength)
    warnings = WarningLog()
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
            _print_outcome(bar, warnings.error(outcome), warnings.new(outcome))
            failed += outcome.error is not None
    if total := warnings.total(len(jobs)):
        _print_warning(total)
    rest = f", {failed} not done" if failed else ""
    typer.echo(f"{_files(len(jobs) - failed)} restored with {denoiser.name} to {output}{rest}.")
    return not failed


@contextmanager
def _progress(files: int) -> Iterator[Progress]:
    """Show a progress bar if standard error is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task("", total=files)
        yield bar


def _print_outcome(bar: Progress, error: str | None, warnings: Sequence[str]) -> None:
    from rich.text import Text

    if error:
        bar.console.print(Text.assemble(("error: ", "red"), error), soft_wrap=True)
    for warning in warnings:
        bar.console.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)


def _print_error(message: str) -> None:
    typer.secho("error: ", fg="red", err=True, nl=False)
    typer.echo(message, err=True)


def _print_warning(message: str) -> None:
    typer.secho("warning: ", fg="yellow", err=True, nl=False)
    typer.echo(message, err=True)


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"
