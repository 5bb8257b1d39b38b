"""The runs of an experiment as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlflow
import pandas as pd

from dae.evaluation import tables
from dae.promotion import audit_log
from dae.tracking.client import CHECKS, connect

COLUMNS = {
    "tags.mlflow.runName": "name",
    "run_id": "run_id",
    "status": "status",
    "tags.verdict": "verdict",
    "tags.model_version": "model_version",
    "metrics.best_val_mse": "best_val_mse",
    "metrics.test_mse": "test_mse",
}
HEADER = ("run", "id", "status", "verdict", "version", "val MSE", "test MSE", "seconds")


def runs(experiment: str | None = None) -> pd.DataFrame:
    """Return one row a run, the newest first, of one experiment or of all.

    The columns are those of `COLUMNS`, ``seconds``, and for each kind of noise that occurs ``val_mse_<kind>`` and
    ``val_mse_<kind>_nothing``; what a run does not have is missing.
    """
    experiments = connect().search_experiments()
    aside = {audit_log.LEDGER_TAG, CHECKS}
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


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as JSON objects, None for what is missing."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")
    ]


def rows(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield the rows as text."""
    for record in records(table):
        yield (
            record["name"],
            record["run_id"][:8],
            record["status"].lower(),
            record["verdict"] or "-",
            record["model_version"] or "-",
            tables.mse(record["best_val_mse"]),
            tables.mse(record["test_mse"]),
            "-" if record["seconds"] is None else f"{record['seconds']:.0f}",
        )
