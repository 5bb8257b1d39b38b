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
FINISH = "Run `mlflow gc` on the server to remove the rest of these runs there."


def gc(
    older_than: Annotated[
        str,
        typer.Option(metavar="AGE", help="Such as 12h, 30d or 8w, since the end of a run or the last use of a folder."),
    ],
    keep_champions: Annotated[
        int, typer.Option(min=1, metavar="N", help="Keep the last N champions of each registered model.")
    ] = 5,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="MODEL", help="Only runs of this registered model, and no cached data. Can be repeated."
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove them. Without this option, nothing is changed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """List old runs and old cached data, or remove them with --delete.

    A run is removed with its models, versions and files.
    Aliases, the last champions and running flows keep what they need.
    Runs that this project did not make are never removed.
    """
    with options.reported():
        from dae.maintenance import cleanup, retention

        policy = retention.RetentionPolicy(
            older_than=retention.parse_age(older_than), champions=keep_champions, names=tuple(names or ())
        )
        plan = cleanup.plan(policy)
        if not as_json and not delete:
            _print_items(plan.items)
        removed = _remove(plan, policy, quiet=as_json) if delete else []
        for_good = cleanup.removes_for_good()
    if as_json:
        typer.echo(json.dumps(_record(plan, removed, delete=delete, for_good=for_good), indent=2))
        return
    for group in plan.kept:
        typer.echo(f"Kept: {_number(group.count, group.what)}: {group.reason}")
    typer.echo(_sentence(plan, removed, delete=delete))
    if any(item.what in ("run", "baseline") for item in removed) and not for_good:
        typer.echo(FINISH)


def _remove(plan: CleanupPlan, policy: RetentionPolicy, *, quiet: bool) -> list[CleanupItem]:
    """Remove the items one after the other, and print each, so that the output shows where an error stopped it."""
    from dae.maintenance import cleanup

    removed = []
    for item in plan.items:
        is_removed = cleanup.remove_item(item, policy)
        if is_removed:
            removed.append(item)
        if not quiet:
            outcome = f"removed, {_size(item.size)}" if is_removed else "kept: it is now used or protected"
            typer.echo(f"{item.what} {item.label if item.label == item.id else f'{item.id} {item.label}'}: {outcome}")
    return removed


def _print_items(items: Sequence[CleanupItem]) -> None:
    if items:
        options.print_table(HEADER, map(_row, items), right=("age", "size"))


def _row(item: CleanupItem) -> tuple[str, ...]:
    which = item.label if item.label == item.id else f"{item.id[:8]} {item.label}"
    return item.what, which, _age(item.age), _size(item.size), item.why


def _sentence(plan: CleanupPlan, removed: Sequence[CleanupItem], *, delete: bool) -> str:
    if not plan.items:
        return "There is nothing that may go."
    if not delete:
        return f"Nothing was changed. With --delete, {_count(plan.items)} would go: {_total(plan.items)}."
    rest = len(plan.items) - len(removed)
    return f"Removed {_count(removed)}: {_total(removed)} freed." + (
        f" Kept, since now used or protected: {rest}." if rest else ""
    )


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


def _record(plan: CleanupPlan, removed: Sequence[CleanupItem], *, delete: bool, for_good: bool) -> dict[str, Any]:
    removed_ids = {(item.what, item.id) for item in removed}
    items = [item.model_dump(mode="json") | {"removed": (item.what, item.id) in removed_ids} for item in plan.items]
    return {
        "deleted": delete,
        "for_good": for_good,
        "items": items,
        "kept": [group.model_dump(mode="json") for group in plan.kept],
        "bytes": sum(item.size for item in (removed if delete else plan.items)),
    }
