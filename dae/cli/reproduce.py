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
HEADER = ("score", "recorded", "reproduced", "difference", "agrees")


def reproduce(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="The id of a run or its first characters, models:/NAME/VERSION, or models:/NAME@ALIAS.",
            show_default=False,
        ),
    ],
    tolerance: Annotated[
        float, typer.Option(help="Largest relative difference at which scores agree. 0 requires identical scores.")
    ] = 0.01,
    here: Annotated[
        bool, typer.Option("--here", help="Train with the current code instead of the run's commit.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object. The log of the training goes to standard error.")
    ] = False,
) -> None:
    """Repeat a run from its recorded configuration, data and commit, and check whether the scores agree.

    The repetition is a run of its own. No alias is moved.
    """
    with options.reported():
        from dae.maintenance.compare_runs import require_tolerance

        require_tolerance(tolerance)
        if as_json:
            logging.getLogger("dae").setLevel(logging.WARNING)
        from dae.maintenance.reproduce import reproduce as repeat_run

        reproduction = repeat_run(run, tolerance, sys.stderr if as_json else sys.stdout, here=here)
    if as_json:
        record = json.loads(reproduction.model_dump_json())
        record |= {"agrees": reproduction.agrees, "outcome": reproduction.sentence}
        typer.echo(json.dumps(record, indent=2))
    else:
        _print(reproduction)
    if not reproduction.agrees:
        raise typer.Exit(NOT_REPRODUCED)


def _print(reproduction: Reproduction) -> None:
    styles = [None if score.agrees else "red" for score in reproduction.scores]
    title = f"MSE of run {reproduction.run_id[:8]}"
    options.print_table(HEADER, map(_row, reproduction.scores), title=title, right=HEADER[1:4], styles=styles)
    console = options.stdout_console()
    for digest in reproduction.digests:
        same = "not recorded" if digest.recorded is None else "the same" if digest.agrees else "ANOTHER"
        console.print(f"{digest.name}: {same}, {(digest.found or 'none')[:16]}", markup=False, soft_wrap=True)
    for note in reproduction.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(f"Trained with {reproduction.code}", markup=False, soft_wrap=True)
    console.print(f"MLflow run {reproduction.reproduced_by}", markup=False, soft_wrap=True)
    console.print(f"[bold {'green' if reproduction.agrees else 'red'}]{reproduction.sentence}[/]", soft_wrap=True)


def _row(score: ScoreComparison) -> tuple[str, ...]:
    recorded, reproduced = ("-" if value is None else f"{value:.8f}" for value in (score.recorded, score.found))
    difference = "-" if score.difference is None else f"{score.difference:+.4%}"
    return score.name, recorded, reproduced, difference, "yes" if score.agrees else "NO"
