"""What output tells people to type: it works as typed in the shell they are in, which need not find ``dae``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dae import commands

ROOT = Path(__file__).parents[1]
SMALL = (
    "data.limit=300 data.validation=60 data.test_limit=60 train.epochs=1 model.width=8 gate.works=null "
    "gate.beat_nothing=false"
)
DAE = Path(sys.executable).with_name("dae")
pytestmark = pytest.mark.skipif(not DAE.exists(), reason="the package's command is not installed")


def bare() -> dict[str, str]:
    """Return an environment whose PATH has no command of this package."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PWD")}
    return kept | {"PATH": "/usr/bin:/bin"}


def shell(line: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], cwd=cwd, env=bare() | more, capture_output=True, text=True, check=False)


def works(hint: str, cwd: Path, **more: str) -> None:
    """Check that a hint can be typed, as far as its help: the command is found, and has such a subcommand."""
    line = re.sub(r"(dae'? [a-z]+).*", r"\1 --help", hint)
    done = shell(line, cwd, **more)
    assert done.returncode == 0, f"{hint}: {done.stderr}"
    assert "Usage:" in done.stdout


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A folder with a space in its name, which leads to the command."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / ".venv").symlink_to(DAE.parents[1], target_is_directory=True)
    return folder


@pytest.mark.parametrize("where", ["here", "below", "elsewhere"])
def test_a_hint_works_where_it_is_told(link: Path, tmp_path: Path, where: str) -> None:
    below = link / "data"
    below.mkdir()
    cwd = {"here": link, "below": below, "elsewhere": tmp_path}[where]
    called = {"here": ".venv/bin/dae", "below": "../.venv/bin/dae", "elsewhere": "'a folder/.venv/bin/dae'"}[where]
    home = {"DAE_HOME": str(tmp_path / "home")}
    done = shell(f"{called} models --name nobody", cwd, **home)
    hint = done.stdout.strip().removeprefix("No versions of nobody yet. Make one with: ")
    assert re.search("dae'? train$", hint), done.stderr
    works(hint, cwd, **home)


def test_by_its_name_where_the_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(DAE)])
    monkeypatch.setenv("PATH", f"{DAE.parent}:/usr/bin:/bin")
    assert commands.dae("ui") == "dae ui"
    other = tmp_path / "dae"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{DAE.parent}:/usr/bin:/bin")
    assert commands.dae("ui") != "dae ui"  # the shell would find another


def test_make_in_another_folder_leaves_the_shell_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(DAE)])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.chdir(DAE.parents[2])
    assert commands.dae("ui") == f"{DAE} ui"
    monkeypatch.setenv("PWD", str(DAE.parents[2]))
    assert commands.dae("ui") == ".venv/bin/dae ui"
    monkeypatch.setenv("MAKEFLAGS", "w")
    assert commands.dae("ui") == f"{DAE} ui"


def test_targets_of_make_are_told_with_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PWD", raising=False)
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    monkeypatch.chdir(ROOT)
    assert commands.make("services") == "make services"
    assert commands.install("baselines") == "make setup-dev"
    monkeypatch.chdir(tmp_path)
    for told in (commands.make("services"), commands.make("services-down"), commands.install("onnx")):
        assert shell(f"{told} --dry-run", tmp_path).returncode == 0, told


def test_from_an_installed_wheel_no_target_of_make_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "__file__", str(tmp_path / "site-packages" / "dae" / "commands.py"))
    monkeypatch.chdir(tmp_path)
    works(commands.make("services"), tmp_path)
    works(commands.make("services-down"), tmp_path)
    told = commands.install("onnx")
    assert told.endswith("-m pip install 'dae[onnx]'")
    assert shell(told.replace("install 'dae[onnx]'", "--version"), tmp_path).returncode in (0, 1)  # 1: no pip in there


def test_usage_messages_call_the_command_as_it_can_be_called(tmp_path: Path) -> None:
    done = shell(f"'{DAE}' runs --nope", tmp_path)
    (hint,) = re.findall(r"Try '(.*)' for help", done.stderr)
    works(hint, tmp_path)


@pytest.mark.parametrize("champion", [True, False])
def test_what_a_run_ends_with_can_be_typed(link: Path, tmp_path: Path, champion: bool) -> None:
    home = {"DAE_HOME": str(tmp_path / "home")}
    values = [*SMALL.split(), f"gate.max_val_mse={10 if champion else 1e-9}"]
    done = shell(f".venv/bin/dae train {' '.join(f'--set {value}' for value in values)}", link, **home)
    assert done.returncode == (0 if champion else 10), done.stderr
    hints = re.findall(r"^  [a-z ]{20}(\S.*)$", done.stdout.partition("\nNext:\n")[2], re.MULTILINE)
    told = [hint.split()[1] for hint in hints]
    assert told == (["denoise", "ui", "runs", "serve"] if champion else ["ui", "runs"])
    for hint in hints:
        works(hint, link, **home)
    if champion:
        (link / "noisy.png").write_bytes((ROOT / "docs" / "denoised.png").read_bytes())
        assert shell(hints[0], link, **home).returncode == 0
    assert shell(hints[told.index("runs")], link, **home).returncode == 0
