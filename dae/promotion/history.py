"""What the ledger says of the past: which version was live when, and which one a rollback goes back to. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from dae.schemas import FrozenModel

Event = Literal["promoted", "refused", "forced", "rolled back", "found"]
CHANGES: frozenset[Event] = frozenset({"promoted", "forced", "rolled back", "found"})


class AuditEntry(FrozenModel):
    """One line of the ledger.

    Attributes
    ----------
    number : int
        Its place, from 1.
    id : str
        Makes it unlike any other entry.
    event : str
        ``promoted``, ``refused``, ``forced``, ``rolled back``, or ``found``: the alias had been moved by other means.
    version : str or None
        The version it is about.
    champion : str or None
        The version that is live from here on.
    against : str or None
        The champion it was judged against, or that it took the place of.
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
    """A time in which one version was live; `end` is None where it still is."""

    version: str
    start: datetime
    end: datetime | None
    entry: AuditEntry


def champion_after(entries: Sequence[AuditEntry]) -> str | None:
    """Return the version that is live after the last entry."""
    return entries[-1].champion if entries else None


def live_periods(entries: Sequence[AuditEntry]) -> list[LivePeriod]:
    """Return who was live when, in order of time."""
    found: list[LivePeriod] = []
    live: AuditEntry | None = None
    for entry in (each for each in entries if each.event in CHANGES):
        if live is not None and live.champion is not None:
            found.append(LivePeriod(version=live.champion, start=live.at, end=entry.at, entry=live))
        live = entry
    if live is not None and live.champion is not None:
        found.append(LivePeriod(version=live.champion, start=live.at, end=None, entry=live))
    return found


def live_between(entries: Sequence[AuditEntry], start: datetime, end: datetime) -> list[LivePeriod]:
    """Return the spans that share a moment with the time from `start` up to and including `end`."""
    return [span for span in live_periods(entries) if span.start <= end and (span.end is None or span.end > start)]


def previous_champion(entries: Sequence[AuditEntry]) -> str | None:
    """Return the version a rollback goes back to; None if there was none before.

    A rollback undoes promotions: rolled back once, the next one goes further back, not forth again.
    """
    line = champion_line(entries)
    if champion_after(entries) is None:  # the alias was removed by other means
        return line[-1] if line else None
    return line[-2] if len(line) > 1 else None


def champion_line(entries: Sequence[AuditEntry]) -> list[str]:
    """Return the champions that led to the present one, which is the last, each once; those rolled back from are left out."""
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
    """Return the entry by which a version became champion, if that was by force; None if the gate let it pass, or never did."""
    came = [entry for entry in entries if entry.version == version and entry.event in ("promoted", "forced")]
    return came[-1] if came and came[-1].event == "forced" else None


def past_champions(entries: Sequence[AuditEntry]) -> list[str]:
    """Return every version that was ever live, the latest first."""
    return list(dict.fromkeys(span.version for span in reversed(live_periods(entries))))
