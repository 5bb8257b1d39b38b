"""``dae reproduce``."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dae.cli import options

if TYPE_CHECKING:
    from dae.maintenance.compare_runs import ScoreComparison
    from dae.maintenance.reproduce import Reproduction

NOT_REPRODUCED = 10
HEADER = ("score", "recorded", "found", "difference", "agrees")


def reproduce(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's id or the beginning of it, or models:/NAME/VERSION or models:/NAME@ALIAS.",
            show_default=False,
        ),
    ],
    tolerance: Annotated[
        float, typer.Option(help="Largest relative difference of a mean squared error that agrees; 0: none at all.")
    ] = 0.01,
    here: Annotated[
        bool, typer.Option("--here", help="Train with the present code, not with that of the run's commit.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object; what the training says goes to standard error.")
    ] = False,
) -> None:
    """Train a run again from its recorded configuration, data and commit, and say whether the scores agree.

    The retraining is a run of its own beside the first one; no champion is touched.
    """
    with options.reported():
        from dae.maintenance import compare_runs

        compare_runs.require_tolerance(tolerance)
        if as_json:
            logging.getLogger("dae").setLevel(logging.WARNING)
        from dae.maintenance import reproduce as reproduce_module

        found = reproduce_module.reproduce(run, tolerance, sys.stderr if as_json else sys.stdout, here=here)
    if as_json:
        record = json.loads(found.model_dump_json()) | {"agrees": found.agrees, "outcome": found.sentence}
        typer.echo(json.dumps(record, indent=2))
    else:
        _print(found)
    if not found.agrees:
        raise typer.Exit(NOT_REPRODUCED)


def _print(found: Reproduction) -> None:
    from rich.table import Table

    console = options.console()
    table = Table(*HEADER, title=f"\nMSE of run {found.run_id[:8]}", title_justify="left", title_style="bold")
    for column in table.columns[1:4]:
        column.justify = "right"
    for score in found.scores:
        table.add_row(*_row(score), style=None if score.agrees else "red")
    console.print(table)
    for digest in found.digests:
        same = "not recorded" if digest.recorded is None else "the same" if digest.agrees else "ANOTHER"
        console.print(f"{digest.name}: {same}, {(digest.found or 'none')[:16]}", markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(f"Trained with {found.code}", markup=False, soft_wrap=True)
    console.print(f"MLflow run {found.reproduced_by}", markup=False, soft_wrap=True)
    console.print(f"[bold {'green' if found.agrees else 'red'}]{found.sentence}[/]", soft_wrap=True)


def _row(score: ScoreComparison) -> tuple[str, ...]:
    recorded, found = ("-" if value is None else f"{value:.8f}" for value in (score.recorded, score.found))
    difference = "-" if score.difference is None else f"{score.difference:+.4%}"
    return score.name, recorded, found, difference, "yes" if score.agrees else "NO"
