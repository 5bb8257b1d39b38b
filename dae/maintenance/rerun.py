"""Retraining: a run's configuration, trained by the code of its commit, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from dae import runtime, storage
from dae.schemas import FrozenModel
from dae.tracking.client import store_uri

PATIENCE = 60.0
NO_GATE: dict[str, Any] = {
    "dry_run": True,
    "force": None,
    "approval_hours": None,
    "smoke_test": None,
    "works": None,
    "beat_baselines": [],
}
"""Of the gate nothing is wanted: it moves no alias, asks nobody, and takes no time. An older gate has not all of these."""
ENDINGS = (0, 10)


class RerunError(RuntimeError):
    """The training could not be done again."""


class SourceCode(FrozenModel):
    """Which code trains: that of a commit, in a worktree of its own, or what is here; `note` says why."""

    commit: str | None
    note: str


def choose_code(commit: str, *, here: bool) -> SourceCode:
    """Return which code can train as a commit did.

    Parameters
    ----------
    commit : str
        ``unknown`` if it is not known.
    here : bool
        Take the present code whatever the commit is.
    """
    short, head = commit[:8], run_git("rev-parse", "HEAD")
    if here:
        return SourceCode(
            commit=None, note=f"the present code, as asked, at {_state(head)}; the run was made at {short}"
        )
    if commit == "unknown":
        return SourceCode(commit=None, note="the present code: the run's commit is not known")
    if head is None:
        return SourceCode(commit=None, note=f"the present code: it is no checkout, so commit {short} is not available")
    if head == commit and run_git("status", "--porcelain") == "":
        return SourceCode(commit=None, note=f"the present code, which is the run's commit {short}")
    if run_git("cat-file", "-e", f"{commit}^{{commit}}") is None:
        return SourceCode(
            commit=None, note=f"the present code, at {_state(head)}: commit {short} is not in this repository"
        )
    return SourceCode(commit=commit, note=f"commit {short}, in a worktree of its own")


def _state(head: str | None) -> str:
    if head is None:
        return "no commit"
    return head[:8] + ("" if run_git("status", "--porcelain") == "" else " with changes")


def make_rerun_config(tree: Mapping[str, Any], run_name: str, model_name: str) -> dict[str, Any]:
    """Return a run's configuration under names of its own, and with a gate that asks for nothing and changes nothing."""
    gate = dict(tree.get("gate") or {})
    names = {"run_name": run_name, "model_name": model_name, "resume": None}
    return {
        **tree,
        "gate": gate | {key: value for key, value in NO_GATE.items() if key in gate},
        "tracking": {**(tree.get("tracking") or {}), **names},
    }


def run_training(tree: Mapping[str, Any], chosen: SourceCode, machine: Mapping[str, Any], output: IO[str]) -> None:
    """Train a configuration in a process of its own, under this interpreter.

    Parameters
    ----------
    tree : mapping
        The configuration, as the chosen code has it.
    chosen : Code
    machine : mapping
        The run's: the backend and oneDNN are set as it had them.
    output : file
        Gets what the training says.

    Raises
    ------
    RetrainingError
        If it does not come to its end.
    """
    with runtime.stop_on_sigterm(), tempfile.TemporaryDirectory() as folder, _worktree(chosen, Path(folder)) as source:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(dict(tree), sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "dae.cli", "train", "--config", str(config)]
        ended = _run(command, source, training_environment(source, machine), output)
    if ended not in ENDINGS:
        raise RerunError(f"the training ended with exit code {ended}; what it said stands above")


def training_environment(source: Path, machine: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment in which Python takes the package from a folder, and the store from where it is now."""
    before = os.environ.get("PYTHONPATH")
    chosen = {
        "PYTHONPATH": os.pathsep.join([str(source), *([before] if before else [])]),
        "PYTHONSAFEPATH": "1",  # or the folder it runs in would come first
        "DAE_HOME": str(storage.project_home()),
        "MLFLOW_TRACKING_URI": _absolute(store_uri()),
    }
    for name, key in (("KERAS_BACKEND", "keras_backend"), ("TF_ENABLE_ONEDNN_OPTS", "TF_ENABLE_ONEDNN_OPTS")):
        if machine.get(key) is not None:
            chosen[name] = str(machine[key])
    return os.environ | chosen


def _absolute(uri: str) -> str:
    """Return a store's address that means the same in any folder."""
    scheme, path = ("sqlite:///", uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else ("", uri)
    return uri if not scheme and ":" in uri else f"{scheme}{Path(path).resolve()}"


def _run(command: list[str], folder: Path, environment: dict[str, str], output: IO[str]) -> int:
    """Run a command to its end; stop it as a person would where this process is stopped, so that its run says so."""
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert child.stdout is not None
    try:
        for line in child.stdout:
            output.write(line)
            output.flush()
        return child.wait()
    except BaseException:
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
        raise
    finally:
        child.stdout.close()
        child.wait()


@contextmanager
def _worktree(chosen: SourceCode, folder: Path) -> Iterator[Path]:
    """Yield the folder with the chosen code; a worktree is removed however the block ends."""
    if chosen.commit is None:
        yield storage.PACKAGE_ROOT
        return
    path = folder / "worktree"
    try:
        if run_git("worktree", "add", "--detach", str(path), chosen.commit) is None:
            raise RerunError(f"git cannot check out commit {chosen.commit} into a worktree of {storage.PACKAGE_ROOT}")
        yield path
    finally:
        run_git("worktree", "remove", "--force", str(path))
        run_git("worktree", "prune")


def run_git(*arguments: str) -> str | None:
    """Return what git says of the repository the package lies in; None if it fails, or there is none."""
    if not (storage.PACKAGE_ROOT / ".git").exists():
        return None
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command, cwd=storage.PACKAGE_ROOT, env=clean, capture_output=True, text=True, check=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
