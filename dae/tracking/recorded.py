"""What a finished run recorded of itself that is needed to make it again: configuration, commit, digests, scores, packages."""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dae.maintenance import compare_runs
from dae.schemas import Frozen
from dae.tracking import models, provenance, runs
from dae.tracking.client import TrackingError, connect, get_run, store_uri

PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "numpy", "jax", "jaxlib")
DIGESTS = ("data_digest", "noise_digest.validation", "noise_digest.test")
RUN_ID = re.compile(r"[0-9a-f]{1,32}")


class Recorded(Frozen):
    """A run's record. `tree` is its configuration as plain values, as the code of its commit has them."""

    run_id: str
    status: str
    tree: dict[str, Any]
    commit: str
    dirty: bool
    digests: dict[str, str]
    pixels: dict[str, str]
    scores: dict[str, float]
    packages: dict[str, str]
    machine: dict[str, Any]


def find(reference: str) -> str:
    """Return the id of a run, given it or its beginning, or ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` of what it made.

    Raises
    ------
    TrackingError
        If there is no such run, or more than one.
    ModelError
        If there is no such model.
    """
    if reference.startswith("models:/"):
        return models.locate(reference).run_id
    client = connect()
    if len(reference) >= runs.RUN_ID_LENGTH:
        return str(get_run(client, reference).info.run_id)
    if not RUN_ID.fullmatch(reference):
        raise TrackingError(
            f"a run is named by its id, the beginning of it, or models:/NAME/VERSION, received {reference}"
        )
    experiments = [each.experiment_id for each in client.search_experiments()]
    matching: list[str] = []
    token: str | None = None
    while True:
        page = client.search_runs(experiments, max_results=1000, page_token=token)
        matching += [run.info.run_id for run in page if run.info.run_id.startswith(reference)]
        if not (token := page.token):
            break
    if len(matching) != 1:
        where = f"at {store_uri()} have an id that begins with {reference}"
        raise TrackingError(f"{len(matching) or 'no'} runs {where}")
    return matching[0]


def read(run_id: str) -> Recorded:
    """Return what a run recorded.

    Raises
    ------
    TrackingError
        If there is no such run, or it holds no configuration.
    """
    run = get_run(connect(), run_id)
    tags = run.data.tags
    if (text := artifact(run_id, "config.yaml")) is None:
        raise TrackingError(f"run {run_id} holds no config.yaml, so it cannot be made again")
    inputs = run.inputs.dataset_inputs if run.inputs else []
    pixels = [{tag.key: tag.value for tag in each.tags} for each in inputs]
    return Recorded(
        run_id=run_id,
        status=run.info.status,
        tree=yaml.safe_load(text),
        commit=tags.get("git_commit", "unknown"),
        dirty=tags.get("git_dirty") == "true",
        digests={key: tags[key] for key in DIGESTS if key in tags},
        pixels={each["mlflow.data.context"]: each["clean_sha256"] for each in pixels if "clean_sha256" in each},
        scores=compare_runs.scores(run.data.metrics),
        packages=_packages(artifact(run_id, "environment/requirements.txt") or ""),
        machine=json.loads(artifact(run_id, "environment/machine.json") or "{}"),
    )


def require_finished(run: Recorded) -> None:
    """Refuse a run that has no result to compare with.

    Raises
    ------
    TrackingError
        If it has not finished, or has no scores.
    """
    if run.status != "FINISHED":
        raise TrackingError(f"only a finished run can be compared with; run {run.run_id} is {run.status}")
    if not {"best_val_mse", "test_mse"} <= run.scores.keys():
        raise TrackingError(
            f"run {run.run_id} must have the metrics best_val_mse and test_mse; found {_list(run.scores)}"
        )


def artifact(run_id: str, path: str) -> str | None:
    """Return a text file of a run; None if it has none of this name."""
    client = connect()
    folder = path.rpartition("/")[0]
    if path not in {each.path for each in client.list_artifacts(run_id, folder or None)}:
        return None
    with tempfile.TemporaryDirectory() as target:
        return Path(client.download_artifacts(run_id, path, target)).read_text(encoding="utf-8")


def differences(run: Recorded) -> list[str]:
    """Return, in words, where the packages and the machine here are others than those of a run. Imports no Keras."""
    if not run.packages:
        return ["the run did not record its packages", *other_machine(run.machine, _machine())]
    here = _packages(provenance.requirements())
    packages = [(name, run.packages.get(name), here.get(name)) for name in PACKAGES]
    notes = [f"{name} was {then or 'absent'}, is {now or 'absent'}" for name, then, now in packages if then != now]
    return notes + other_machine(run.machine, _machine())


def other_machine(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return, in words, in what that both tell of two machines differ."""
    return [f"{key} was {then[key]}, is {now[key]}" for key in then if key in now and then[key] != now[key]]


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


def _packages(text: str) -> dict[str, str]:
    pins = dict(line.split("==", 1) for line in text.splitlines() if "==" in line)
    return {name.lower(): version.strip() for name, version in pins.items()}


def _list(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
