"""``dae gc``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dae.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dae.maintenance.retention import CleanupItem, CleanupPlan, RetentionPolicy

HEADER = ("what", "which", "age", "size", "why it may go")
FINISH = "Run `mlflow gc` on the server to remove what is left of these runs there."


def gc(
    older_than: Annotated[
        str,
        typer.Option(
            metavar="AGE", help="Such as 12h, 30d or 8w: since the end of a run, or the last use of a folder."
        ),
    ],
    keep_champions: Annotated[
        int, typer.Option(min=1, metavar="N", help="Keep the last N champions of each registered model.")
    ] = 5,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="MODEL", help="Only runs of this registered model, no cached data. Can be repeated."
        ),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it. Without this, nothing is changed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Remove old runs with their models, versions and files, and old cached data; say what would go, unless --delete is given.

    What an alias, the last champions of a model or a running flow needs is never removed. Nor are runs of others.
    """
    with options.reported():
        from dae.maintenance import cleanup, retention

        wish = retention.RetentionPolicy(
            older_than=retention.parse_age(older_than), champions=keep_champions, names=tuple(names or ())
        )
        choice = cleanup.plan(wish)
        if not as_json and not delete:
            _show(choice.items)
        removed = _remove(choice, wish, quiet=as_json) if delete else []
        for_good = cleanup.removes_for_good()
    if as_json:
        typer.echo(json.dumps(_record(choice, removed, delete=delete, for_good=for_good), indent=2))
        return
    for kept in choice.kept:
        typer.echo(f"Kept: {_number(kept.count, kept.what)}: {kept.reason}")
    typer.echo(_sentence(choice, removed, delete=delete))
    if any(item.what in ("run", "baseline") for item in removed) and not for_good:
        typer.echo(FINISH)


def _remove(choice: CleanupPlan, wish: RetentionPolicy, *, quiet: bool) -> list[CleanupItem]:
    """Remove what was chosen, one after the other, telling each, so that it is known where an error ends it."""
    from dae.maintenance import cleanup

    removed = []
    for item in choice.items:
        gone = cleanup.remove_item(item, wish)
        if gone:
            removed.append(item)
        if not quiet:
            outcome = f"removed, {_size(item.size)}" if gone else "kept after all: it is used or protected by now"
            typer.echo(f"{item.what} {item.label if item.label == item.id else f'{item.id} {item.label}'}: {outcome}")
    return removed


def _show(items: Sequence[CleanupItem]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not items:
        return
    table = Table()
    for title in HEADER:
        table.add_column(title, overflow="fold", justify="right" if title in ("age", "size") else "left")
    for item in items:
        which = item.label if item.label == item.id else f"{item.id[:8]} {item.label}"
        table.add_row(item.what, escape(which), _age(item.age), _size(item.size), escape(item.why))
    options.console().print(table)


def _sentence(choice: CleanupPlan, removed: Sequence[CleanupItem], *, delete: bool) -> str:
    if not choice.items:
        return "There is nothing that may go."
    if not delete:
        return f"Nothing was changed. With --delete, {_count(choice.items)} would go: {_total(choice.items)}."
    rest = len(choice.items) - len(removed)
    return f"Removed {_count(removed)}: {_total(removed)} freed." + (f" {rest} stayed after all." if rest else "")


def _count(items: Sequence[CleanupItem]) -> str:
    runs = sum(item.what in ("run", "baseline") for item in items)
    return f"{_number(runs, 'runs')} and {_number(len(items) - runs, 'cached folders')}"


def _number(count: int, things: str) -> str:
    return f"{count} {things.removesuffix('s') if count == 1 else things}"


def _total(items: Sequence[CleanupItem]) -> str:
    return _size(sum(item.size for item in items))


def _age(seconds: float) -> str:
    for unit, length in {"d": 86400, "h": 3600}.items():
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 60:.0f} min"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _record(choice: CleanupPlan, removed: Sequence[CleanupItem], *, delete: bool, for_good: bool) -> dict[str, Any]:
    gone = {(item.what, item.id) for item in removed}
    items = [item.model_dump(mode="json") | {"removed": (item.what, item.id) in gone} for item in choice.items]
    return {
        "deleted": delete,
        "for_good": for_good,
        "items": items,
        "kept": [kept.model_dump(mode="json") for kept in choice.kept],
        "bytes": sum(item.size for item in (removed if delete else choice.items)),
    }
