"""Rerun: the configuration of a run is trained with the code of its commit, in a separate process."""

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
"""Seconds that a training has to stop before it is killed."""
NO_GATE: dict[str, Any] = {
    "dry_run": True,
    "force": None,
    "approval_hours": None,
    "smoke_test": None,
    "works": None,
    "beat_baselines": [],
}
"""Settings that switch the gate off: no alias, no approval, no long checks. An older gate has only some of these settings."""
EXIT_CODES = (0, 10)
"""Of a training that finished: promoted or dry run, and refused."""


class RerunError(RuntimeError):
    """The training could not be repeated."""


class SourceCode(FrozenModel):
    """The code that trains: that of a commit, in a separate worktree, or the present code if it is None. `note` says why."""

    commit: str | None
    note: str


def choose_code(commit: str, *, here: bool) -> SourceCode:
    """Choose the code to repeat a training that ran at a commit.

    Parameters
    ----------
    commit : str
        ``unknown`` if it is not known.
    here : bool
        Take the present code, whatever the commit is.
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
    """Return the configuration of a run with new names, and with a gate that checks nothing and changes nothing."""
    gate = dict(tree.get("gate") or {})
    names = {"run_name": run_name, "model_name": model_name, "resume": None}
    return {
        **tree,
        "gate": gate | {key: value for key, value in NO_GATE.items() if key in gate},
        "tracking": {**(tree.get("tracking") or {}), **names},
    }


def run_training(tree: Mapping[str, Any], code: SourceCode, machine: Mapping[str, Any], output: IO[str]) -> None:
    """Train a configuration in a separate process of this Python interpreter.

    Parameters
    ----------
    tree : mapping
        The configuration, in the schema of the chosen code.
    code : SourceCode
    machine : mapping
        The record of the run's machine: the Keras backend and oneDNN are set accordingly.
    output : file
        Receives the output of the training.

    Raises
    ------
    RerunError
        If the training fails.
    """
    with runtime.stop_on_sigterm(), tempfile.TemporaryDirectory() as folder, _worktree(code, Path(folder)) as source:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(dict(tree), sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "dae.cli", "train", "--config", str(config)]
        exit_code = _run(command, source, training_environment(source, machine), output)
    if exit_code not in EXIT_CODES:
        raise RerunError(f"the training ended with exit code {exit_code}; its output is above")


def training_environment(source: Path, machine: Mapping[str, Any]) -> dict[str, str]:
    """Return an environment in which Python imports the package from a folder and uses the present store."""
    python_path = os.environ.get("PYTHONPATH")
    variables = {
        "PYTHONPATH": os.pathsep.join([str(source), *([python_path] if python_path else [])]),
        "PYTHONSAFEPATH": "1",  # otherwise the working directory would come first
        "DAE_HOME": str(storage.project_home()),
        "MLFLOW_TRACKING_URI": _absolute(store_uri()),
    }
    for name, key in (("KERAS_BACKEND", "keras_backend"), ("TF_ENABLE_ONEDNN_OPTS", "TF_ENABLE_ONEDNN_OPTS")):
        if machine.get(key) is not None:
            variables[name] = str(machine[key])
    return os.environ | variables


def _absolute(uri: str) -> str:
    """Return the address of a store with an absolute path, so that it holds in any folder."""
    scheme, path = ("sqlite:///", uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else ("", uri)
    return uri if not scheme and ":" in uri else f"{scheme}{Path(path).resolve()}"


def _run(command: list[str], folder: Path, environment: dict[str, str], output: IO[str]) -> int:
    """Run a command and return its exit code. If this process is stopped, it terminates the command and waits for it."""
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
def _worktree(code: SourceCode, folder: Path) -> Iterator[Path]:
    """Yield the folder with the chosen code. A worktree is removed at the end, also after an error."""
    if code.commit is None:
        yield storage.PACKAGE_ROOT
        return
    path = folder / "worktree"
    try:
        if run_git("worktree", "add", "--detach", str(path), code.commit) is None:
            raise RerunError(f"git cannot check out commit {code.commit} into a worktree of {storage.PACKAGE_ROOT}")
        yield path
    finally:
        run_git("worktree", "remove", "--force", str(path))
        run_git("worktree", "prune")


def run_git(*arguments: str) -> str | None:
    """Return the output of a git command in the repository of the package; None if it fails, or there is no repository."""
    if not (storage.PACKAGE_ROOT / ".git").exists():
        return None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *arguments]
    try:
        result = subprocess.run(
            command, cwd=storage.PACKAGE_ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
