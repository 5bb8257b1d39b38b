"""What output tells people to type: it works as typed in the shell they are in, which need not find ``dae``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dae import command_lines, storage
from dae.cli import train
from dae.config.schema import PipelineConfig

ROOT = Path(__file__).parents[1]
Commands = tuple[tuple[PipelineConfig, int, str], ...]
DAE = Path(sys.executable).with_name("dae")
pytestmark = pytest.mark.skipif(not DAE.exists(), reason="the package's command is not installed")


def bare() -> dict[str, str]:
    """Return an environment whose PATH has no command of this package."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PWD")}
    return kept | {"PATH": "/usr/bin:/bin"}


def shell(line: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], cwd=cwd, env=bare() | more, capture_output=True, text=True, check=False)


def works(hint: str, cwd: Path, **more: str) -> None:
    """Check that a hint can be typed: the command is found, and knows the subcommand and its options."""
    done = shell(f"{hint} --help", cwd, **more)
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
    (hint,) = re.findall(r"Try '(.*)' for help", shell(f"{called} runs --nope", cwd).stderr)
    assert hint == f"{called} runs --help"
    works(hint, cwd)


def test_by_its_name_where_the_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(DAE)])
    monkeypatch.setenv("PATH", f"{DAE.parent}:/usr/bin:/bin")
    assert command_lines.dae_command("ui") == "dae ui"
    other = tmp_path / "dae"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{DAE.parent}:/usr/bin:/bin")
    assert command_lines.dae_command("ui") != "dae ui"  # the shell would find another


def test_make_in_another_folder_leaves_the_shell_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(DAE)])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.chdir(DAE.parents[2])
    assert command_lines.dae_command("ui") == f"{DAE} ui"
    monkeypatch.setenv("PWD", str(DAE.parents[2]))
    assert command_lines.dae_command("ui") == ".venv/bin/dae ui"
    monkeypatch.setenv("MAKEFLAGS", "w")
    assert command_lines.dae_command("ui") == f"{DAE} ui"


def test_targets_of_make_are_told_with_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PWD", raising=False)
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    monkeypatch.chdir(ROOT)
    assert command_lines.make_command("services") == "make services"
    monkeypatch.setattr(sys, "prefix", str(ROOT / ".venv"))
    assert command_lines.install_command("baselines") == "make setup-dev"
    monkeypatch.chdir(tmp_path)
    for told in (
        command_lines.make_command("services"),
        command_lines.make_command("services-down"),
        command_lines.install_command("onnx"),
    ):
        assert shell(f"{told} --dry-run", tmp_path).returncode == 0, told


def test_another_environment_than_the_checkouts_is_told_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/opt/conda")
    assert command_lines.install_command("onnx").endswith(f"-m pip install --editable '{ROOT}[onnx]'")


def test_what_make_logs_in_for_is_told_with_the_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PWD", raising=False)
    monkeypatch.chdir(tmp_path)
    assert command_lines.with_login("dae deploy") == "dae deploy"
    (tmp_path / "a login").write_text("WHERE=here\n")
    monkeypatch.setenv("DAE_CLIENT", str(tmp_path / "a login"))
    assert shell(command_lines.with_login("printenv WHERE"), tmp_path).stdout == "here\n"


def test_from_an_installed_wheel_no_target_of_make_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PACKAGE_ROOT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    works(command_lines.make_command("services"), tmp_path)
    works(command_lines.make_command("services-down"), tmp_path)
    told = command_lines.install_command("onnx")
    assert told.endswith("-m pip install 'dae-denoising[onnx]'")
    version = told.replace("install 'dae-denoising[onnx]'", "--version")
    assert shell(version, tmp_path).returncode in (0, 1)  # 1: no pip in there


def hints_of(out: str) -> list[str]:
    """Return the commands a training run ends with."""
    return re.findall(r"^  [a-z ]{20}(\S.*)$", out.partition("\nNext:\n")[2], re.MULTILINE)


def test_what_a_run_ends_with_can_be_typed(trained: tuple[Path, Commands]) -> None:
    home, ((_, _, promoted), (_, _, refused), _) = trained
    assert [hint.split()[1] for hint in hints_of(promoted)] == ["denoise", "ui", "runs", "serve"]
    assert hints_of(refused) == hints_of(promoted)  # by the champion there is
    for hint in hints_of(promoted):
        works(hint, Path.cwd(), DAE_HOME=str(home))


@pytest.mark.usefixtures("mlflow_store")
def test_without_a_champion_nothing_is_told_that_takes_one(capsys: pytest.CaptureFixture[str]) -> None:
    train._print_next("nobody")
    assert [hint.split()[1] for hint in hints_of(capsys.readouterr().out)] == ["ui", "runs"]
