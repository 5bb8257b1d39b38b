"""The files in deploy/ and .github/: by their schemas, against the command's own parser, make, systemd and the settings."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
import yaml

from dae import cli, runtime
from dae.services import environment, health, lifecycle, postgres, settings, supervision
from dae.services.postgres import ServicesError
from dae.services.settings import ServiceSettings

ROOT = Path(__file__).parents[3]
DEPLOY, UNITS = ROOT / "deploy", ROOT / "deploy" / "systemd"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GITLAB, COMPOSE = DEPLOY / "gitlab-ci.example.yml", DEPLOY / "compose.yaml"
SECRET = re.compile(r"PASSWORD|SECRET_KEY|AUTH_STRING")
USAGE_ERROR: Any = typer.BadParameter.__base__  # typer has a copy of click's, or click's own
SERVICES = ("postgres", "mlflow", "prefect", "worker")
TYPED = {
    "DEPLOYMENT": "retrain",
    "TIMEOUT": "90",
    "CONFIG": "configs/default.yaml",
    "SETTINGS": "train.epochs=3\nnoise.clip=$(touch${IFS}typed)  a=`touch${IFS}typed`;touch${IFS}typed",
    "DRY_RUN": "",
    "REASON": "$(touch typed) `touch typed`; touch typed 'it' \"works\" && touch typed",
}
"""What somebody may type into the form of a workflow, with commands in it that must not be carried out."""


def tree(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    return found


def steps() -> Iterator[Any]:
    """Yield every script line that a CI system runs, with the variables it gets."""
    for path in WORKFLOWS:
        for name, job in tree(path)["jobs"].items():
            for number, step in enumerate(job["steps"]):
                if "run" in step:
                    yield pytest.param(step["run"], set(step.get("env", ())), id=f"{path.stem}-{name}-{number}")
    for name, job in tree(GITLAB).items():
        for number, line in enumerate(job.get("script", ()) if isinstance(job, dict) else ()):
            yield pytest.param(line, set(tree(GITLAB)["variables"]) | {"CONFIG"}, id=f"gitlab-{name}-{number}")


TRIGGERS = [pytest.param(each.values[0], id=each.id) for each in steps() if "dae trigger" in each.values[0]]


def calls(line: str, variables: dict[str, str], folder: Path) -> list[list[str]]:
    """Run a script line in a shell where dae and make do nothing; return what each was called with."""
    record = folder / "record"
    for stub in (folder / "bin" / "make", folder / ".venv" / "bin" / "dae"):
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(
            f"""#!/bin/sh\nfor each in {stub.name} "$@"; do printf '%s\\0' "$each"; done >>{record}; echo >>{record}\n"""
        )
        stub.chmod(0o755)
    given = {"PATH": str(folder / "bin"), "GITHUB_STEP_SUMMARY": "summary.md"} | variables
    shell = shutil.which("bash") or "/bin/sh"
    subprocess.run([shell, "-e", "-c", line], cwd=folder, env=given, check=True)
    return [call.split("\0") for call in record.read_text().split("\0\n") if call]


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Return what the dae command takes its arguments for; it refuses them as it would when called, and does nothing."""
    command: Any = typer.main.get_command(cli.app)
    rest = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    found: dict[str, Any] = command.make_context(command.name, rest).params
    return found


def of_example() -> dict[str, str]:
    """Return the variables of .env.example."""
    return dict(re.findall(r"^(\w+)=(.*)$", settings.EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_parser_refuses_what_the_command_would() -> None:
    assert parsed(["train", "--set", "a=1", "--set=b=2"])["settings"] == ["a=1", "b=2"]
    assert parsed(["services", "status"]) == {}
    for wrong in (["train", "--sett", "a=1"], ["train", "now"], ["trigger"], ["trigger", "ci", "--timeout", "soon"]):
        with pytest.raises(USAGE_ERROR):
            parsed(wrong)
    with pytest.raises(KeyError, match="sideways"):
        parsed(["services", "sideways"])


@pytest.mark.parametrize(
    ("schema", "paths"),
    [("github-workflows", WORKFLOWS), ("gitlab-ci", [GITLAB]), ("compose-spec", [COMPOSE])],
    ids=["github", "gitlab", "compose"],
)
def test_files_are_valid_by_their_schemas(schema: str, paths: list[Path]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("line", "variables"), list(steps()))
def test_ci_runs_make_targets_and_commands_that_exist(line: str, variables: set[str], tmp_path: Path) -> None:
    assert "${{" not in line  # a value in place of an expression would be part of the script
    for program, *arguments in calls(line, {name: TYPED[name] for name in variables & set(TYPED)}, tmp_path):
        if program == "make":
            subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, check=True)
        else:
            parsed(arguments)


@pytest.mark.parametrize("line", TRIGGERS)
def test_what_somebody_typed_reaches_the_command_as_it_is(line: str, tmp_path: Path) -> None:
    ((_, *arguments),) = calls(line, TYPED, tmp_path)
    found = parsed(arguments)
    assert found["settings"] == TYPED["SETTINGS"].split()
    assert (found["deployment"], found["reason"], found["force"]) == ("retrain", TYPED["REASON"], True)
    assert (str(found["config"]), float(found["timeout"])) == ("configs/default.yaml", 90.0)
    assert not found["dry_run"]
    assert not list(tmp_path.rglob("typed"))


@pytest.mark.parametrize("line", TRIGGERS)
def test_what_nobody_typed_is_left_out(line: str, tmp_path: Path) -> None:
    unset = dict.fromkeys(TYPED, "") | {"DEPLOYMENT": "ci", "TIMEOUT": "5", "DRY_RUN": "yes"}
    ((_, *arguments),) = calls(line, unset, tmp_path)
    found = parsed(arguments)
    assert (found["deployment"], found["dry_run"], found["force"], found["reason"]) == ("ci", True, False, None)
    assert not found["settings"]
    assert found["config"] is None


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units_as_they_are(tmp_path: Path) -> None:
    """It also looks for the programs, so that /opt/dae is a folder here that has them."""
    shutil.copytree(UNITS, tmp_path / "units")
    checkout = tmp_path / "dae"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to("/bin/true")
    units = sorted([*(tmp_path / "units").glob("*.service"), *(tmp_path / "units").glob("*.target")])
    assert [each.stem for each in units] == ["dae-mlflow", "dae-postgres", "dae-prefect", "dae-worker", "dae"]
    for each in units:
        each.write_text(each.read_text(encoding="utf-8").replace("/opt/dae/", f"{checkout}/"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line or line.startswith("dae")]
    assert (done.returncode, told) == (0, [])


def test_the_units_call_what_their_program_has() -> None:
    program = (UNITS / "unit.py").read_text(encoding="utf-8")
    for path in UNITS.glob("*.service"):
        lines = re.findall(r"^Exec\w+=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        for line in lines:
            found = re.fullmatch(r"/opt/dae/\.venv/bin/python /opt/dae/deploy/systemd/unit\.py (\w+) (\w+)", line)
            assert found, line
            assert f"def {found[1]}(" in program
            assert found[2] in SERVICES
        assert any(line.endswith(f"start {path.stem.removeprefix('dae-')}") for line in lines)


def made(**changes: str) -> ServiceSettings:
    secrets = {f"{name}_password": f"{name}-password" for name in ("postgres", "postgres_admin", "mlflow", "prefect")}
    return ServiceSettings(mlflow_secret_key="mlflow-secret-key", **secrets | changes)  # type: ignore[arg-type]


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("DAE_HOME", str(tmp_path))
    monkeypatch.setattr(postgres, "binary", lambda _, name: f"/usr/bin/{name}")
    spec = importlib.util.spec_from_file_location("unit", UNITS / "unit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_unit_becomes_what_supervisord_would_run(unit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, became = made(), []
    monkeypatch.setenv("DAE_POSTGRES_ADMIN_PASSWORD", found.postgres_admin_password)
    monkeypatch.setattr(os, "execve", lambda *call: became.append(call))
    monkeypatch.setattr(postgres, "initialise", lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: 999)  # a unit's user is not root
    for name in SERVICES:
        unit.start(found, name)
    lines = [line for _, line, _ in became]
    configuration = supervision.configuration(found)
    assert all(f"\ncommand={' '.join(line)}\n".replace("-k  ", "-k '' ") in configuration for line in lines)
    assert [line[0] for line in lines] == ["/usr/bin/postgres", *[sys.executable] * 3]
    for _, _, variables in became:
        assert environment.MARK not in variables
        assert not any(name.startswith("DAE_POSTGRES_") for name in variables)
    assert (found.folder / "basic_auth.ini").read_text(encoding="utf-8") == environment.basic_auth(found)
    assert (found.folder / "client.env").read_text(encoding="utf-8") == environment.shell(found)


def test_a_unit_does_not_start_on_half_a_restore(unit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, became = made(), []
    monkeypatch.setattr(os, "execve", lambda *call: became.append(call))
    monkeypatch.setattr(postgres, "initialise", lambda _: None)
    found.folder.mkdir(parents=True, exist_ok=True)
    lifecycle.half_restored(found).write_text("/backups/1", encoding="utf-8")
    for name in ("mlflow", "prefect", "worker"):
        with pytest.raises(ServicesError, match="a restore was interrupted: do it again, from /backups/1"):
            unit.start(found, name)
    assert became == []
    unit.start(found, "postgres")  # which a restore needs
    assert len(became) == 1


def test_a_unit_does_not_wait_for_a_process_that_has_ended(unit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    monkeypatch.setenv("MAINPID", str(ended.pid))
    monkeypatch.setitem(health.CHECKS, "mlflow", lambda _: "connection refused")
    with pytest.raises(ServicesError, match="mlflow is not healthy: connection refused"):
        unit.wait(made(), "mlflow")
    monkeypatch.setitem(health.CHECKS, "mlflow", lambda _: None)
    unit.wait(made(), "mlflow")


def test_what_a_unit_left_behind_is_told_to_end(unit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = f"{os.getpid()}-own", f"{os.getpid()}-other"
    monkeypatch.setattr(unit, "_own", lambda: own)
    kept = subprocess.Popen(["sleep", "60"], env={"INVOCATION_ID": other})
    left = subprocess.Popen(["sleep", "60"], env={"INVOCATION_ID": own})
    try:
        unit.end(made(), "worker")
        assert not psutil.pid_exists(left.pid)
        assert kept.poll() is None
    finally:
        kept.kill()
        left.kill()
        kept.wait()


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_shell_scripts_that_can_be_run(path: Path) -> None:
    subprocess.run(["sh", "-n", str(path)], check=True)
    assert os.access(path, os.X_OK)


def test_mlflow_gets_the_file_that_make_services_writes(tmp_path: Path) -> None:
    found = made()
    file = tmp_path / "basic_auth.ini"
    given = {"MLFLOW_AUTH_CONFIG_PATH": str(file), "MLFLOW_BACKEND_STORE_URI": found.database("mlflow", "psycopg2")}
    command = [str(DEPLOY / "mlflow-entrypoint.sh"), "cat", str(file)]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=True)
    assert done.stdout == environment.basic_auth(found)
    assert file.stat().st_mode & 0o077 == 0


def test_an_upgrade_in_a_container_shows_no_password(tmp_path: Path) -> None:
    for name in ("mlflow", "python"):
        stub = tmp_path / name
        stub.write_text(f'#!/bin/sh\necho {name} "$@" "$PGPASSWORD"\n', encoding="utf-8")
        stub.chmod(0o755)
    found = made()
    given = {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "basic_auth.ini"),
        "MLFLOW_BACKEND_STORE_URI": found.database("mlflow", "psycopg2"),
        "PATH": f"{tmp_path}:/usr/bin:/bin",
    }
    command = [str(DEPLOY / "mlflow-entrypoint.sh"), "upgrade"]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    address = f"postgresql+psycopg2://dae@127.0.0.1:{found.postgres_port}/mlflow"
    assert done.stdout.splitlines() == [
        f"mlflow db upgrade {address} {found.postgres_password}",
        f"python -m mlflow.server.auth db upgrade --url {address}_auth {found.postgres_password}",
    ]


def test_postgres_gets_the_databases_that_make_services_makes() -> None:
    text = (DEPLOY / "postgres-init.sh").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^CREATE DATABASE (\w+) OWNER dae;$", text, re.MULTILINE)) == environment.DATABASES
    assert f"REVOKE ALL ON DATABASE {', '.join(environment.DATABASES)} FROM PUBLIC;" in text


def test_the_example_lists_every_setting_of_the_services_and_no_other() -> None:
    assert list(of_example()) == [f"{settings.PREFIX}{name.upper()}" for name in ServiceSettings.model_fields]


def test_containers_and_units_take_their_variables_from_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text(encoding="utf-8")))
    for path in (*UNITS.glob("dae*.service"), *UNITS.glob("*.d/*.conf"), UNITS / "unit.py"):
        asked |= set(re.findall(r"\$\{(\w+)", path.read_text(encoding="utf-8")))
    assert asked
    assert asked <= set(of_example())


def test_containers_publish_on_the_chosen_address_alone_and_have_the_defaults_of_the_example() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    for service in tree(COMPOSE)["services"].values():
        assert all(port.startswith("${DAE_SERVICES_HOST:-127.0.0.1}:") for port in service.get("ports", ()))
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", text):
        assert default == of_example()[name]


def test_containers_have_the_variables_that_make_services_sets() -> None:
    """Except for where things lie, and the login of the servers' own clients."""
    inherited, found = set(os.environ), made()
    asked = {name for name in environment.of_services(found) if name.startswith(("MLFLOW_", "PREFECT_"))} - inherited
    image = set(re.findall(r"(\w+)=", (DEPLOY / "Dockerfile").read_text(encoding="utf-8")))
    given = {name for service in tree(COMPOSE)["services"].values() for name in service["environment"]}
    assert asked <= given | image


@pytest.mark.parametrize("path", [*WORKFLOWS, GITLAB, COMPOSE], ids=lambda path: path.name)
def test_no_secret_has_a_value(path: Path) -> None:
    def named(node: Any) -> Iterator[tuple[str, str]]:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            if isinstance(value, str):
                yield str(key), value
            yield from named(value)

    for name, value in named(tree(path)):
        if SECRET.search(name):
            assert re.fullmatch(r"(admin:)?\$\{(DAE_\w+):\?[^}]+\}|\$\{\{ secrets\.\w+ \}\}", value), name
        assert not re.search(r"://\w+:[^$@/]+@", value), name
    for name in re.findall(r"\$\{(\w+)(?!\w|:\?)", path.read_text(encoding="utf-8")):
        assert not SECRET.search(name), f"{name} must be asked for with :?"


def test_the_example_and_the_image_hold_no_secret() -> None:
    assert {value for name, value in of_example().items() if SECRET.search(name) or "WEBHOOK" in name} == {""}
    assert not SECRET.search((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))


def test_a_run_is_taken_for_dead_only_after_three_heartbeats() -> None:
    (silent,) = (each for each in tree(DEPLOY / "server.yaml")["automations"] if each["name"] == "dae-crash-silent")
    assert int(silent["trigger"]["within"]) >= 3 * int(runtime.SETTINGS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])


def test_the_image_gets_nothing_that_git_ignores() -> None:
    def patterns(name: str) -> set[str]:
        lines = (line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
        return {line.removeprefix("**/").rstrip("/") for line in lines if line}

    assert patterns(".dockerignore") == patterns(".gitignore")


def test_the_installed_prefect_finds_dates_for_every_schedule() -> None:
    """It has versions with which it takes a schedule, and no run ever comes of it."""
    from prefect.server.schemas.schedules import CronSchedule

    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    schedules = [schedule for each in deployments for schedule in each.get("schedules") or ()]
    assert schedules
    for schedule in schedules:
        cron = CronSchedule(cron=schedule["cron"], timezone=schedule.get("timezone"))
        dates = asyncio.run(cron.get_dates(2))
        assert dates[0] < dates[1]
