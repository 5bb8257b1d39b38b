"""What the audit log says about the past: the champion at any time, and the target of a rollback. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from dae.schemas import FrozenModel

Event = Literal["promoted", "refused", "forced", "rolled back", "found"]
CHANGES: frozenset[Event] = frozenset({"promoted", "forced", "rolled back", "found"})


class AuditEntry(FrozenModel):
    """One entry of the audit log.

    Attributes
    ----------
    number : int
        Its position, from 1.
    id : str
        Unique.
    event : str
        ``promoted``, ``refused``, ``forced`` or ``rolled back``; or ``found`` if the alias was moved by other means.
    version : str or None
        The version that the decision is about.
    champion : str or None
        The version that is the champion after this entry.
    against : str or None
        The champion that it was compared with, or that it replaced.
    """

    number: int
    id: str
    at: datetime
    event: Event
    version: str | None
    champion: str | None
    against: str | None = None
    who: str
    reason: str = ""
    val_mse: float | None = None
    run_id: str | None = None


class LivePeriod(FrozenModel):
    """A period in which one version was the champion; `end` is None if it still is."""

    version: str
    start: datetime
    end: datetime | None
    entry: AuditEntry


def champion_after(entries: Sequence[AuditEntry]) -> str | None:
    """Return the champion after the last entry; None if there is none."""
    return entries[-1].champion if entries else None


def live_periods(entries: Sequence[AuditEntry]) -> list[LivePeriod]:
    """Return the periods of all champions in order of time."""
    periods: list[LivePeriod] = []
    live: AuditEntry | None = None
    for entry in entries:
        if entry.event not in CHANGES:
            continue
        if live is not None and live.champion is not None:
            periods.append(LivePeriod(version=live.champion, start=live.at, end=entry.at, entry=live))
        live = entry
    if live is not None and live.champion is not None:
        periods.append(LivePeriod(version=live.champion, start=live.at, end=None, entry=live))
    return periods


def live_between(entries: Sequence[AuditEntry], start: datetime, end: datetime) -> list[LivePeriod]:
    """Return the periods that overlap the time from `start` up to and including `end`."""
    return [
        period for period in live_periods(entries) if period.start <= end and (period.end is None or period.end > start)
    ]


def previous_champion(entries: Sequence[AuditEntry]) -> str | None:
    """Return the version that a rollback restores; None if there is no earlier champion.

    A rollback undoes a promotion. A second rollback goes back further; it does not undo the first one.
    """
    line = champion_line(entries)
    if champion_after(entries) is None:  # the alias was removed by other means
        return line[-1] if line else None
    return line[-2] if len(line) > 1 else None


def champion_line(entries: Sequence[AuditEntry]) -> list[str]:
    """Return the champions up to the present one, which is last, each once. Those that were rolled back are left out."""
    line: list[str] = []
    for entry in entries:
        version = entry.champion
        if entry.event not in CHANGES or version is None:
            continue
        if version in line:
            if entry.event == "rolled back":
                line = line[: line.index(version)]
            else:
                line.remove(version)
        line.append(version)
    return line


def find_forced(entries: Sequence[AuditEntry], version: str | None) -> AuditEntry | None:
    """Return the entry by which a version was last made champion, if it was forced; None if the gate passed it, or neither."""
    promotions = [entry for entry in entries if entry.version == version and entry.event in ("promoted", "forced")]
    return promotions[-1] if promotions and promotions[-1].event == "forced" else None


def past_champions(entries: Sequence[AuditEntry]) -> list[str]:
    """Return every version that was ever the champion, latest first."""
    return list(dict.fromkeys(period.version for period in reversed(live_periods(entries))))
