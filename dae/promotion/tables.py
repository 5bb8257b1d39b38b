"""Runs, versions of a registered model, and its audit log, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import mlflow
import pandas as pd

from dae.evaluation import tables
from dae.promotion import audit_log, registry
from dae.promotion.history import AuditEntry
from dae.tracking.client import CHECKS, connect

VERSIONS_HEADER = ("version", "verdict", "aliases", "val MSE", "test MSE", "registered", "run", "why")
HISTORY_HEADER = ("#", "when", "event", "version", "live", "val MSE", "who", "why")
COLUMNS = {
    "tags.mlflow.runName": "name",
    "run_id": "run_id",
    "status": "status",
    "tags.verdict": "verdict",
    "tags.model_version": "model_version",
    "metrics.best_val_mse": "best_val_mse",
    "metrics.test_mse": "test_mse",
}
RUNS_HEADER = ("run", "id", "status", "verdict", "version", "val MSE", "test MSE", "seconds")


def read_versions(name: str) -> list[dict[str, Any]]:
    """Return one plain record a version, the newest first."""
    named: dict[str, list[str]] = {}
    for alias, version in sorted(registry.list_aliases(name).items()):
        named.setdefault(version, []).append(alias)
    return [_record(found, named.get(str(found.version), [])) for found in registry.list_versions(name)]


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


def version_rows(found: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the versions as text."""
    return [
        (
            each["version"],
            _verdict(each),
            ", ".join(each["aliases"]) or "-",
            tables.format_mse(each["best_val_mse"]),
            tables.format_mse(each["test_mse"]),
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


def history_rows(entries: Sequence[AuditEntry]) -> list[tuple[str, ...]]:
    """Return the ledger as text."""
    return [
        (
            str(entry.number),
            local(entry.at),
            entry.event.upper() if entry.event == "forced" else entry.event,
            entry.version or "-",
            entry.champion or "-",
            tables.format_mse(entry.val_mse),
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


def read_runs(experiment: str | None = None) -> pd.DataFrame:
    """Return one row a run, the newest first, of one experiment or of all.

    The columns are those of `COLUMNS`, ``seconds``, and for each kind of noise that occurs ``val_mse_<kind>`` and
    ``val_mse_<kind>_nothing``; what a run does not have is missing.
    """
    experiments = connect().search_experiments()
    aside = {audit_log.AUDIT_LOG_TAG, CHECKS}
    wanted = [each for each in experiments if experiment in (None, each.name) and not aside & each.tags.keys()]
    ids = [each.experiment_id for each in wanted]
    found = mlflow.search_runs(ids, order_by=["attributes.start_time DESC"]) if ids else pd.DataFrame()
    if not isinstance(found, pd.DataFrame) or found.empty:
        return pd.DataFrame()
    table = found.reindex(columns=list(COLUMNS)).rename(columns=COLUMNS)
    by_kind = sorted(
        str(name)
        for name in found.columns
        if str(name).startswith("metrics.val_mse_") and name != "metrics.val_mse_nothing"
    )
    for name in by_kind:
        table[name.removeprefix("metrics.")] = found[name]
    ended, started = (pd.to_datetime(found[column], utc=True) for column in ("end_time", "start_time"))
    table["seconds"] = (ended - started).dt.total_seconds()
    return table


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as JSON objects, None for what is missing."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")
    ]


def run_rows(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield the rows as text."""
    for record in as_records(table):
        yield (
            record["name"],
            record["run_id"][:8],
            record["status"].lower(),
            record["verdict"] or "-",
            record["model_version"] or "-",
            tables.format_mse(record["best_val_mse"]),
            tables.format_mse(record["test_mse"]),
            "-" if record["seconds"] is None else f"{record['seconds']:.0f}",
        )
