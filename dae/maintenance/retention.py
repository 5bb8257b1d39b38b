"""Retention: which runs and cached folders can be removed, and why the others are kept.

The functions are pure: they decide on an inventory that `dae.maintenance.inventory` takes.
"""

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

AUDIT_LOG = "audit log of a model"
FOREIGN = "not made by this pipeline"
RUNNING = "still running, or killed before the end was recorded"
ALIAS = "a registered version has an alias"
CHAMPION = "among the last champions of a model"
NEEDED = "in use by a command"
SCORED = "needed by a version that is kept, or by a running run"
RESUMABLE = "the run can be resumed"
YOUNG = "not old enough"
OTHER = "not of the models that were asked for"


class RetentionPolicy(FrozenModel):
    """What to keep: the minimum age for removal in seconds, the number of champions kept, and the models to clean up.

    Attributes
    ----------
    older_than : float
        Only what is older than this, in seconds, is removed.
    champions : int
        How many of the last champions of each registered model are kept.
    names : tuple of str
        Only runs of these registered models are removed; empty for all models.
    """

    older_than: float
    champions: int = 5
    names: tuple[str, ...] = ()


class CleanupItem(FrozenModel):
    """Something that can be removed. `id` is that of a run, or the path of a folder. Age is in seconds, size in bytes."""

    what: What
    id: str
    label: str
    age: float
    why: str
    versions: tuple[tuple[str, str], ...] = ()
    models: tuple[str, ...] = ()
    size: int = 0


class KeptCount(FrozenModel):
    """How many runs or folders are kept for one reason."""

    what: Literal["runs", "cached folders"]
    reason: str
    count: int


class CleanupPlan(FrozenModel):
    """What can be removed, and what is kept."""

    items: tuple[CleanupItem, ...]
    kept: tuple[KeptCount, ...]


@dataclass(frozen=True)
class Protection:
    """What must be kept whatever its age.

    Attributes
    ----------
    ids : dict
        From the id of a run or a logged model to the reason.
    digests : frozenset of str
        Folders that hold images or noise with these digests.
    since : float
        Folders used at this time or later, in seconds since the epoch.
    """

    ids: dict[str, str]
    digests: frozenset[str]
    since: float

    def reason_for(self, run: Run) -> str | None:
        """Return why a run must be kept; None if nothing protects it."""
        return next((self.ids[key] for key in (run.run_id, *run.models) if key in self.ids), None)


def parse_age(age: str) -> float:
    """Return an age such as ``12h``, ``30d`` or ``8w`` in seconds.

    Raises
    ------
    ConfigError
        If it is not such an age, or zero.

    Examples
    --------
    >>> parse_age("36h") == parse_age("1.5d")
    True
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", age.strip())
    if match is None or float(match[1]) == 0:
        raise ConfigError(
            f"--older-than must be a number of hours, days or weeks above 0, such as 12h, 30d or 8w, received {age}"
        )
    return float(match[1]) * UNITS[match[2]]


def plan_cleanup(state: Inventory, policy: RetentionPolicy, now: float) -> CleanupPlan:
    """Return what can be removed, and why the rest is kept.

    Parameters
    ----------
    state : Inventory
    policy : RetentionPolicy
    now : float
        In seconds since the epoch.
    """
    protection = find_protected(state, policy.champions, now)
    items: list[CleanupItem] = []
    kept: Counter[tuple[Literal["runs", "cached folders"], str]] = Counter()
    for run in state.runs:
        reason = _reason_to_keep_run(run, protection, policy, now)
        if reason is None:
            items.append(_run_item(run, state, now))
        else:
            kept["runs", reason] += 1
    removed_runs = {item.id for item in items}
    for folder in state.folders:
        reason = _reason_to_keep_folder(folder, state, protection, removed_runs, policy, now)
        if reason is None:
            items.append(_folder_item(folder, removed_runs, now))
        else:
            kept["cached folders", reason] += 1
    return CleanupPlan(
        items=tuple(items),
        kept=tuple(KeptCount(what=what, reason=reason, count=count) for (what, reason), count in kept.items()),
    )


def find_protected(state: Inventory, champions: int, now: float) -> Protection:
    """Return what must be kept whatever its age."""
    ids: dict[str, str] = {}
    digests: set[str] = set()
    for version, reason in _kept_versions(state, champions):
        digests |= version.digests
        for key in references(version):
            ids.setdefault(key, reason)
    for entries in state.audit_logs.values():
        versions = last_champions(entries, champions)
        for entry in entries:  # the version itself may have been deleted by hand
            if entry.run_id and entry.version in versions:
                ids.setdefault(entry.run_id, CHAMPION)
    active = [run for run in state.runs if run.status in ACTIVE]
    needed = [run for run in state.runs if run.needed_until > now]
    ids = {run.run_id: NEEDED for run in needed} | ids | {run.run_id: RUNNING for run in active}
    for run in (*active, *needed):
        digests |= run.digests
    return Protection(ids, frozenset(digests), min((run.started for run in active), default=float("inf")))


def last_champions(entries: Sequence[AuditEntry], count: int) -> set[str]:
    """Return the last `count` champions, and the versions that the next `count` rollbacks would restore."""
    return {*history.past_champions(entries)[:count], *history.champion_line(entries)[-count:]} if count > 0 else set()


def references(version: Version) -> set[str]:
    """Return the ids of the run and the logged model that a version needs."""
    return {*IDS.findall(version.source), *([version.run_id] if version.run_id else [])}


def versions_of(run: Run, state: Inventory) -> tuple[Version, ...]:
    """Return the versions, of any registered model, that need a run."""
    own_ids = {run.run_id, *run.models}
    return tuple(version for version in state.versions if own_ids & references(version))


def _kept_versions(state: Inventory, champions: int) -> Iterator[tuple[Version, str]]:
    """Yield the versions that must be kept with the reason, and the versions that they are copies of."""
    versions = {(version.name, version.number): version for version in state.versions}
    reasons = {key: ALIAS for key, version in versions.items() if version.aliases}
    for name, entries in state.audit_logs.items():
        reasons = {(name, number): CHAMPION for number in last_champions(entries, champions)} | reasons
    keys = list(reasons)
    while keys:
        key = keys.pop()
        if (version := versions.get(key)) is None:
            continue
        yield version, reasons[key]
        match = COPY.fullmatch(version.source)
        if match and (origin := (match[1], match[2])) not in reasons:
            reasons[origin] = reasons[key]
            keys.append(origin)


def _reason_to_keep_run(run: Run, protection: Protection, policy: RetentionPolicy, now: float) -> str | None:
    if run.audit_log:
        return AUDIT_LOG
    if not run.ours:
        return FOREIGN
    if reason := protection.reason_for(run):
        return reason
    if policy.names and run.model_name not in policy.names:
        return OTHER
    return YOUNG if run.ended is None or now - run.ended <= policy.older_than else None


def _reason_to_keep_folder(
    folder: Folder,
    state: Inventory,
    protection: Protection,
    removed_runs: Collection[str],
    policy: RetentionPolicy,
    now: float,
) -> str | None:
    if folder.digests & protection.digests or folder.used >= protection.since:
        return SCORED
    owner = next((run for run in state.runs if run.run_id == folder.run_id), None)
    if owner is not None and (reason := protection.reason_for(owner)):
        return reason
    if owner is not None and owner.status != "FINISHED" and owner.run_id not in removed_runs:
        return RESUMABLE
    if policy.names and folder.run_id not in removed_runs:
        return OTHER
    return YOUNG if now - folder.used <= policy.older_than else None


def _run_item(run: Run, state: Inventory, now: float) -> CleanupItem:
    versions = versions_of(run, state)
    assert run.ended is not None
    verdicts = ", ".join(f"{version.name} {version.number} {version.verdict or 'not judged'}" for version in versions)
    why = f"{run.status.lower()}; {verdicts or 'no version'}; no alias, not among the last champions"
    return CleanupItem(
        what="baseline" if run.baseline else "run",
        id=run.run_id,
        label=run.name,
        age=now - run.ended,
        why=run.status.lower() if run.baseline else why,
        versions=tuple((version.name, version.number) for version in versions),
        models=run.models,
    )


def _folder_item(folder: Folder, removed_runs: Collection[str], now: float) -> CleanupItem:
    why = {
        "images": "unused; created again when needed",
        "noise": "unused; drawn again when needed",
        "draft": "left by a process that was killed",
    }.get(
        folder.what,
        "its run is removed, too" if folder.run_id in removed_runs else "its run has finished, or is not in this store",
    )
    return CleanupItem(what=folder.what, id=folder.path, label=folder.path, age=now - folder.used, why=why)
