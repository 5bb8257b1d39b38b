"""The versions of a registered model, and its ledger, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dae.evaluation import tables
from dae.promotion import registry
from dae.promotion.history import Entry

HEADER = ("version", "verdict", "aliases", "val MSE", "test MSE", "registered", "run", "why")
HISTORY_HEADER = ("#", "when", "event", "version", "live", "val MSE", "who", "why")


def versions(name: str) -> list[dict[str, Any]]:
    """Return one plain record a version, the newest first."""
    named: dict[str, list[str]] = {}
    for alias, version in sorted(registry.aliases(name).items()):
        named.setdefault(version, []).append(alias)
    return [_record(found, named.get(str(found.version), [])) for found in registry.versions(name)]


def _record(found: Any, aliases: list[str]) -> dict[str, Any]:
    tags = found.tags
    return {
        "version": str(found.version),
        "verdict": tags.get("verdict", "unknown"),
        "aliases": aliases,
        "best_val_mse": _number(tags.get("best_val_mse")),
        "test_mse": _number(tags.get("test_mse")),
        "registered": datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        "decided_at": tags.get("decided_at"),
        "decided_by": tags.get("decided_by"),
        "reason": tags.get("verdict_reasons", ""),
        "forced": "forced_reason" in tags,
        "forced_by": tags.get("forced_by"),
        "forced_reason": tags.get("forced_reason"),
        "run_id": found.run_id,
        "model_uri": found.source,
        "model_sha256": tags.get("model_sha256"),
        "data_digest": tags.get("data_digest"),
        "git_commit": tags.get("git_commit"),
    }


def rows(found: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the versions as text."""
    return [
        (
            each["version"],
            _verdict(each),
            ", ".join(each["aliases"]) or "-",
            tables.mse(each["best_val_mse"]),
            tables.mse(each["test_mse"]),
            local(datetime.fromisoformat(each["registered"])),
            (each["run_id"] or "-")[:8],
            f"{each['forced_by']}: {each['forced_reason']}" if each["forced"] else short(each["reason"]) or "-",
        )
        for each in found
    ]


def _verdict(record: dict[str, Any]) -> str:
    if not record["forced"]:
        return str(record["verdict"])
    return "FORCED" if record["verdict"] == "forced" else f"FORCED, then {record['verdict']}"


def history_rows(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """Return the ledger as text."""
    return [
        (
            str(entry.number),
            local(entry.at),
            entry.event.upper() if entry.event == "forced" else entry.event,
            entry.version or "-",
            entry.champion or "-",
            tables.mse(entry.val_mse),
            entry.who,
            short(entry.reason) if entry.event in ("promoted", "refused") else entry.reason or "-",
        )
        for entry in entries
    ]


def short(reasons: str) -> str:
    """Return the first of several reasons, and how many more failed; of a promotion how many checks passed.

    Examples
    --------
    >>> short("val_mse: too high; checksum: another")
    'val_mse: too high (+1 more)'
    >>> short("9 checks passed; val_mse: 0.00240 is at most 0.00690")
    '9 checks passed'
    """
    first, *rest = reasons.split("; ")
    return f"{first} (+{len(rest)} more)" if rest and " passed" not in first else first


def local(moment: datetime) -> str:
    """Return a moment in local time, to the second."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
