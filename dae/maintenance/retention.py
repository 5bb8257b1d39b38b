"""Garbage: which runs and cached folders may go, and why the others stay. Pure; `dae.maintenance.census` sees what there is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dae.config.schema import ConfigError
from dae.maintenance.inventory import ACTIVE, Folder, Inventory, Run, Version, What
from dae.promotion import history
from dae.promotion.history import AuditEntry
from dae.schemas import FrozenModel

UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}
IDS = re.compile(r"m-[0-9a-f]{32}|[0-9a-f]{32}")
COPY = re.compile(r"models:/([^/@]+)/(\d+)")

AUDIT_LOG = "a ledger"
FOREIGN = "not made by this pipeline"
RUNNING = "running, or killed before they could say that they ended"
ALIAS = "a version of theirs holds an alias"
CHAMPION = "among the last champions of a model"
NEEDED = "a command still needs them"
SCORED = "a version that is kept was scored on them, or a running run needs them"
RESUMABLE = "their runs can be resumed"
YOUNG = "younger than asked"
OTHER = "not of the models asked for"


class RetentionPolicy(FrozenModel):
    """What is asked for: an age in seconds, how many champions of each model are kept, and of which models runs may go."""

    older_than: float
    champions: int = 5
    names: tuple[str, ...] = ()


class CleanupItem(FrozenModel):
    """Something that may go. `id` is a run's, or a folder's path; age and size are in seconds and bytes."""

    what: What
    id: str
    label: str
    age: float
    why: str
    versions: tuple[tuple[str, str], ...] = ()
    models: tuple[str, ...] = ()
    size: int = 0


class KeptCount(FrozenModel):
    """How many runs or folders stay for one reason."""

    what: Literal["runs", "cached folders"]
    reason: str
    count: int


class CleanupPlan(FrozenModel):
    """What may go, and what stays."""

    items: tuple[CleanupItem, ...]
    kept: tuple[KeptCount, ...]


@dataclass(frozen=True)
class Protection:
    """What must stay: runs and logged models by id, with the reason; folders by digest; those used since a moment."""

    ids: dict[str, str]
    digests: frozenset[str]
    since: float

    def of(self, run: Run) -> str | None:
        """Return why a run must stay; None if nothing protects it."""
        return next((self.ids[key] for key in (run.run_id, *run.models) if key in self.ids), None)


def parse_age(age: str) -> float:
    """Return an age such as ``12h``, ``30d`` or ``8w`` in seconds.

    Raises
    ------
    ConfigError
        If it is none.

    Examples
    --------
    >>> parse_age("36h") == parse_age("1.5d")
    True
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", age.strip())
    if found is None or float(found[1]) == 0:
        raise ConfigError(
            f"--older-than must be hours, days or weeks, more than none, such as 12h, 30d or 8w, received {age}"
        )
    return float(found[1]) * UNITS[found[2]]


def plan_cleanup(state: Inventory, wish: RetentionPolicy, now: float) -> CleanupPlan:
    """Return what may go of all there is, and why the rest stays.

    Parameters
    ----------
    state : State
    wish : Wish
    now : float
        In seconds since the epoch.
    """
    safe = find_protected(state, wish.champions, now)
    items: list[CleanupItem] = []
    kept: Counter[tuple[Literal["runs", "cached folders"], str]] = Counter()
    for run in state.runs:
        reason = _run_stays(run, safe, wish, now)
        if reason is None:
            items.append(_run_item(run, state, now))
        else:
            kept["runs", reason] += 1
    gone = {item.id for item in items}
    for folder in state.folders:
        reason = _folder_stays(folder, state, safe, gone, wish, now)
        if reason is None:
            items.append(_folder_item(folder, gone, now))
        else:
            kept["cached folders", reason] += 1
    return CleanupPlan(
        items=tuple(items),
        kept=tuple(KeptCount(what=what, reason=reason, count=count) for (what, reason), count in kept.items()),
    )


def find_protected(state: Inventory, champions: int, now: float) -> Protection:
    """Return what must stay whatever its age."""
    ids: dict[str, str] = {}
    digests: set[str] = set()
    for version, reason in _kept_versions(state, champions):
        digests |= version.digests
        for key in references(version):
            ids.setdefault(key, reason)
    for entries in state.ledgers.values():
        last = last_champions(entries, champions)
        for entry in entries:  # by the ledger's own word, too: the version may have been deleted by hand
            if entry.run_id and entry.version in last:
                ids.setdefault(entry.run_id, CHAMPION)
    active = [run for run in state.runs if run.status in ACTIVE]
    needed = [run for run in state.runs if run.needed_until > now]
    ids = {run.run_id: NEEDED for run in needed} | ids | {run.run_id: RUNNING for run in active}
    for run in (*active, *needed):
        digests |= run.digests
    return Protection(ids, frozenset(digests), min((run.started for run in active), default=float("inf")))


def last_champions(entries: Sequence[AuditEntry], count: int) -> set[str]:
    """Return the versions that were live last, `count` of them, and those that as many rollbacks would go back to."""
    return {*history.past_champions(entries)[:count], *history.champion_line(entries)[-count:]} if count > 0 else set()


def references(version: Version) -> set[str]:
    """Return the ids of the run and the logged model a version rests on."""
    return {*IDS.findall(version.source), *([version.run_id] if version.run_id else [])}


def versions_of(run: Run, state: Inventory) -> tuple[Version, ...]:
    """Return the versions, of any registered model, that rest on a run."""
    own = {run.run_id, *run.models}
    return tuple(version for version in state.versions if own & references(version))


def _kept_versions(state: Inventory, champions: int) -> Iterator[tuple[Version, str]]:
    """Yield the versions that must stay, with the reason, and those they are copies of."""
    known = {(version.name, version.number): version for version in state.versions}
    reasons = {key: ALIAS for key, version in known.items() if version.aliases}
    for name, entries in state.ledgers.items():
        reasons = {(name, number): CHAMPION for number in last_champions(entries, champions)} | reasons
    todo = list(reasons)
    while todo:
        key = todo.pop()
        if (version := known.get(key)) is None:
            continue
        yield version, reasons[key]
        copied = COPY.fullmatch(version.source)
        if copied and (origin := (copied[1], copied[2])) not in reasons:
            reasons[origin] = reasons[key]
            todo.append(origin)


def _run_stays(run: Run, safe: Protection, wish: RetentionPolicy, now: float) -> str | None:
    if run.ledger or not run.ours:
        return AUDIT_LOG if run.ledger else FOREIGN
    if reason := safe.of(run):
        return reason
    if wish.names and run.model_name not in wish.names:
        return OTHER
    return YOUNG if run.ended is None or now - run.ended <= wish.older_than else None


def _folder_stays(
    folder: Folder, state: Inventory, safe: Protection, gone: Collection[str], wish: RetentionPolicy, now: float
) -> str | None:
    if folder.digests & safe.digests or folder.used >= safe.since:
        return SCORED
    owner = next((run for run in state.runs if run.run_id == folder.run_id), None)
    if owner is not None and (reason := safe.of(owner)):
        return reason
    if owner is not None and owner.status != "FINISHED" and owner.run_id not in gone:
        return RESUMABLE
    if wish.names and folder.run_id not in gone:
        return OTHER
    return YOUNG if now - folder.used <= wish.older_than else None


def _run_item(run: Run, state: Inventory, now: float) -> CleanupItem:
    found = versions_of(run, state)
    assert run.ended is not None
    verdicts = ", ".join(f"{each.name} {each.number} {each.verdict or 'not judged'}" for each in found)
    why = f"{run.status.lower()}; {verdicts or 'no version'}; no alias, none of the last champions"
    return CleanupItem(
        what="baseline" if run.baseline else "run",
        id=run.run_id,
        label=run.name,
        age=now - run.ended,
        why=run.status.lower() if run.baseline else why,
        versions=tuple((each.name, each.number) for each in found),
        models=run.models,
    )


def _folder_item(folder: Folder, gone: Collection[str], now: float) -> CleanupItem:
    why = {
        "images": "not used since; made again when needed",
        "noise": "not used since; drawn again when needed",
        "draft": "left by a process that was killed",
    }.get(folder.what, "its run goes, too" if folder.run_id in gone else "its run is over, or not in this store")
    return CleanupItem(what=folder.what, id=folder.path, label=folder.path, age=now - folder.used, why=why)
