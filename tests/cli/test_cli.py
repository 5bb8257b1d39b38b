from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from dae.cli import app
from dae.config.schema import NoiseConfig, PipelineConfig

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
Commands = tuple[tuple[PipelineConfig, int, str], ...]


def dae(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def settings(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def test_help_and_version_import_nothing_heavy() -> None:
    script = (
        "import sys; from dae.cli import app\n"
        "try: app([sys.argv[1]])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('keras', 'mlflow', 'prefect', 'numpy', 'pandas', 'matplotlib') if name in sys.modules])"
    )
    for option in ("--help", "-h", "--version"):
        result = subprocess.run([sys.executable, "-c", script, option], check=True, capture_output=True, text=True)
        assert result.stdout.splitlines()[-1] == "[]"


COMMANDS = {
    "Train and compare": {"train", "runs", "ui", "baselines", "strengths", "reproduce", "config"},
    "Models and promotion": {"models", "promote", "rollback", "approve", "gc"},
    "Use a model": {"denoise", "serve", "export"},
    "Team": {"services", "deploy", "trigger", "worker", "sweep"},
}
SUBCOMMANDS = {
    "models": {"history", "live"},
    "services": {"up", "down", "status", "backup", "restore", "upgrade"},
}
LINES = (
    [()]
    + [(name,) for names in COMMANDS.values() for name in sorted(names)]
    + [(group, name) for group, names in SUBCOMMANDS.items() for name in sorted(names)]
)


def command_at(names: tuple[str, ...]) -> Any:
    command: Any = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    return command


def test_every_command_belongs_to_a_group_of_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    panels: dict[str, set[str]] = {}
    for name, command in command_at(()).commands.items():
        panels.setdefault(command.rich_help_panel, set()).add(name)
    assert panels == COMMANDS
    for name, names in SUBCOMMANDS.items():
        assert command_at((name,)).commands.keys() == names
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = dae("--help")
    assert re.findall(r"^╭─ (.*?) ─", out, re.MULTILINE) == ["Options", *COMMANDS]


@pytest.mark.parametrize("names", LINES, ids=" ".join)
def test_help_has_flags_without_a_type_and_ends_with_examples(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = dae(*names, "-h")
    assert (code, out) == (0, dae(*names, "--help")[1])
    assert "<bool>" not in out
    lines = [line.rstrip() for line in out.rstrip().splitlines()]
    title = max(lines.index(line) for line in (" Example:", " Examples:") if line in lines)
    assert lines[title + 1 :]
    for line in lines[title + 1 :]:
        assert line.startswith("   " + " ".join(("dae", *names))), line
        assert_is_valid(shlex.split(line)[1:])


def assert_is_valid(words: list[str]) -> None:
    """Check that a command with these arguments exists. Nothing is run."""
    names: tuple[str, ...] = ()
    while (command := command_at(names)) and words and words[0] in getattr(command, "commands", {}):
        names, words = (*names, words[0]), words[1:]
    assert names
    command.make_context(names[-1], words)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shell_completion(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True, cwd=tmp_path)
    script = run([program, "-c", f"{sys.executable} -m dae.cli --show-completion {shell}; true"]).stdout
    assert "_dae_completion" in script
    assert "_DAE_COMPLETE=complete_" in script
    words = {"bash": {"COMP_WORDS": "dae ser", "COMP_CWORD": "1"}, "zsh": {"_TYPER_COMPLETE_ARGS": "dae ser"}}[shell]
    env = os.environ | words | {"_DAE_COMPLETE": f"complete_{shell}"}
    completed = run([sys.executable, "-m", "dae.cli"], env=env)
    assert {name for name in ("serve", "services", "train") if name in completed.stdout} == {"serve", "services"}


def test_config_prints_what_a_run_would_have() -> None:
    code, out, _ = dae("config", "--config", str(SMOKE), "--set", "train.epochs=9")
    assert code == 0
    config = PipelineConfig.model_validate(yaml.safe_load(out))
    assert (config.train.epochs, config.data.limit) == (9, 2000)


def test_config_prints_the_json_schema() -> None:
    code, out, _ = dae("config", "--schema")
    assert code == 0
    assert json.loads(out)["properties"].keys() == PipelineConfig.model_fields.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (settings("train.epoch=3"), "train.epoch: unknown key"),
        (settings("train.epochs=0"), "train.epochs: input should be greater than or equal to 1; received 0"),
        (settings("nonsense"), "must be PATH=VALUE"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
        (["--resume", "0" * 32], "no run"),
        (["--resume", "0" * 32, *settings("train.epochs=3")], "leave out --config and --set"),
        (["--no-such-option"], "No such option"),
    ],
)
@pytest.mark.usefixtures("mlflow_store")
def test_bad_usage_and_bad_config_exit_2(arguments: list[str], message: str) -> None:
    code, _, err = dae("train", *arguments)
    assert code == 2
    assert message in err.replace("\n", " ")


def test_train_exits_0_promoted_10_refused_1_error_and_runs_lists_them(
    trained: tuple[Path, Commands], mlflow_store: Path, tmp_path: Path
) -> None:
    home, ((_, code, out), (_, refused_code, refused), _) = trained
    assert code == 0
    assert "Promoted: dae-smoke version 1 is the champion." in out
    assert "Examples: 4 noisy files made of the test images, restored by" in out
    assert "4 files restored with models:/dae-smoke/1 to " in out
    for folder in ("noisy", "restored"):
        files = (home / ".dae" / "examples" / "dae-smoke-1" / folder).iterdir()
        assert sorted(file.stem for file in files) == ["gaussian", "poisson", "salt_and_pepper", "speckle"]
    assert refused_code == 10
    assert "Refused: dae-smoke version 2" in refused
    assert "is above 0.00000 (gate.max_val_mse)" in refused.replace("\n", " ")

    shutil.copy(home / "mlruns" / "mlflow.db", mlflow_store)
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    code, _, err = dae("train", "--config", str(SMOKE), *settings(f"data.source={tmp_path / 'torn.npy'}"))
    assert code == 1
    assert "torn.npy: must be a NumPy array file" in err

    code, _, err = dae("train", *settings("model.architecture=article", "data.source=" + str(tmp_path / "none")))
    assert code == 1
    assert "no such path" in err

    code, out, _ = dae("runs", "--json")
    assert code == 0
    runs = json.loads(out)
    assert [(run["status"], run["verdict"]) for run in runs] == [
        ("FAILED", None),
        ("FAILED", None),
        ("FINISHED", "promoted"),
        ("FINISHED", "refused"),
        ("FINISHED", "promoted"),
    ]
    kinds = [*NoiseConfig().shares(), "drawn", "8bit"]
    keys = {"name", "run_id", "status", "verdict", "model_version", "best_val_mse", "test_mse", "seconds"}
    assert runs[0].keys() == keys | {f"val_mse_{kind}{end}" for kind in kinds for end in ("", "_nothing")}
    assert 0 < runs[4]["best_val_mse"] < 0.1
    assert "promoted" in dae("runs")[1]
    only_smoke = json.loads(dae("runs", "--json", "--experiment", "smoke")[1])
    assert [run["run_id"] for run in only_smoke] == [run["run_id"] for run in runs[1:]]


@pytest.mark.usefixtures("mlflow_store")
def test_runs_of_an_empty_store() -> None:
    assert dae("runs", "--json")[:2] == (0, "[]\n")
    assert dae("runs")[1].startswith("No runs yet")


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow_store")
def test_ui_serves_the_store_in_use(unused_port: int, wait_for_http: Callable[[str], str]) -> None:
    command = [sys.executable, "-m", "dae.cli", "ui", "--port", str(unused_port)]
    with subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert "MLflow" in wait_for_http(f"http://127.0.0.1:{unused_port}/")
        finally:
            server.terminate()
