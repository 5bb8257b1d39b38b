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
    """Return one record for each version, newest first, as JSON objects."""
    aliases: dict[str, list[str]] = {}
    for alias, version in sorted(registry.list_aliases(name).items()):
        aliases.setdefault(version, []).append(alias)
    return [_record(version, aliases.get(str(version.version), [])) for version in registry.list_versions(name)]


def _record(version: Any, aliases: list[str]) -> dict[str, Any]:
    tags = version.tags
    return {
        "version": str(version.version),
        "verdict": tags.get("verdict", "unknown"),
        "aliases": aliases,
        "best_val_mse": _number(tags.get("best_val_mse")),
        "test_mse": _number(tags.get("test_mse")),
        "registered": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        "decided_at": tags.get("decided_at"),
        "decided_by": tags.get("decided_by"),
        "reason": tags.get("verdict_reasons", ""),
        "forced": "forced_reason" in tags,
        "forced_by": tags.get("forced_by"),
        "forced_reason": tags.get("forced_reason"),
        "run_id": version.run_id,
        "model_uri": version.source,
        "model_sha256": tags.get("model_sha256"),
        "data_digest": tags.get("data_digest"),
        "git_commit": tags.get("git_commit"),
    }


def version_rows(records: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the rows of the table of versions."""
    return [
        (
            record["version"],
            _verdict(record),
            ", ".join(record["aliases"]) or "-",
            tables.format_mse(record["best_val_mse"]),
            tables.format_mse(record["test_mse"]),
            local(datetime.fromisoformat(record["registered"])),
            (record["run_id"] or "-")[:8],
            f"{record['forced_by']}: {record['forced_reason']}" if record["forced"] else short(record["reason"]) or "-",
        )
        for record in records
    ]


def _verdict(record: dict[str, Any]) -> str:
    if not record["forced"]:
        return str(record["verdict"])
    return "FORCED" if record["verdict"] == "forced" else f"FORCED, then {record['verdict']}"


def history_rows(entries: Sequence[AuditEntry]) -> list[tuple[str, ...]]:
    """Return the rows of the table of the audit log."""
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
    """Return the first of several reasons and the number of the others; for a promotion, the number of passed checks.

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
    """Return one row for each run, newest first, of one experiment or of all.

    The columns are those of `COLUMNS`, ``seconds``, and for each kind of noise ``val_mse_<kind>`` and
    ``val_mse_<kind>_nothing``. A value that a run does not have is missing.
    """
    other_tags = {audit_log.AUDIT_LOG_TAG, CHECKS}
    ids = [
        candidate.experiment_id
        for candidate in connect().search_experiments()
        if experiment in (None, candidate.name) and not other_tags & candidate.tags.keys()
    ]
    runs = mlflow.search_runs(ids, order_by=["attributes.start_time DESC"]) if ids else pd.DataFrame()
    if not isinstance(runs, pd.DataFrame) or runs.empty:
        return pd.DataFrame()
    table = runs.reindex(columns=list(COLUMNS)).rename(columns=COLUMNS)
    kind_columns = sorted(
        str(name)
        for name in runs.columns
        if str(name).startswith("metrics.val_mse_") and name != "metrics.val_mse_nothing"
    )
    for name in kind_columns:
        table[name.removeprefix("metrics.")] = runs[name]
    ended, started = (pd.to_datetime(runs[column], utc=True) for column in ("end_time", "start_time"))
    table["seconds"] = (ended - started).dt.total_seconds()
    return table


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as JSON objects; a missing value is None."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")
    ]


def run_rows(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of runs."""
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
