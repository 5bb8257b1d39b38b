"""Deploying to a real Prefect server: what is missing is made, what differs is named and put right, the rest is left alone."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from dae import command_lines
from dae.cli import app
from dae.config.schema import ConfigError, PipelineConfig
from flows.deployment import apply, build_steps, spec

ROOT = Path(__file__).parents[3]
WEBHOOK = "https://hooks.example/T0/B1/sesame"
NAMES = {
    "work pool": ["dae"],
    "webhook": ["dae-notify"],
    "deployment": ["retrain", "retrain-if-stale", "ci", "sweep"],
    "automation": ["dae-notify", "dae-cancel-hanging", "dae-crash-silent"],
}
SCHEDULED = ("train-denoiser/retrain", "sweep/sweep")


class Done(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


def deploy(*arguments: str) -> Done:
    done = CliRunner().invoke(app, ["deploy", *arguments])
    return Done(done.exit_code, done.stdout, done.stderr)


def lines(state: str, names: dict[str, list[str]] = NAMES) -> list[list[str]]:
    """Return the words of the lines that say things are in a state."""
    return [[*state.split(), *kind.split(), name] for kind, found in names.items() for name in found]


def words(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


@pytest.fixture
def project(home: Path) -> Path:
    """A folder with the files that are shipped."""
    return shipped(home)


def shipped(folder: Path) -> Path:
    (folder / "deploy").mkdir()
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "deploy" / "server.yaml", folder / "deploy")
    shutil.copy(ROOT / "prefect.yaml", folder)
    return folder


class First(NamedTuple):
    """A project's folder, and what the command said before and at the first deployment."""

    folder: Path
    checked: Done
    untouched: bool
    done: Done


@pytest.fixture(scope="module")
def first(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[First]:
    folder = shipped(tmp_path_factory.mktemp("deployed"))
    tree = yaml.safe_load((folder / "prefect.yaml").read_text())
    del tree["deployments"][3]["schedules"][0]["active"]  # as it is by default
    (folder / "prefect.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    with get_client(sync_client=True) as client, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(folder))
        patch.setenv("DAE_WEBHOOK_URL", WEBHOOK)
        before = client.read_deployments(), client.read_work_pools()
        checked = deploy("--check")
        untouched = (client.read_deployments(), client.read_work_pools()) == before
        yield First(folder, checked, untouched, deploy())
        for each in client.read_deployments():
            if each.work_pool_name == "dae":
                client.delete_deployment(each.id)
        for name in NAMES["automation"]:
            for automation in client.read_automations_by_name(name):
                client.delete_automation(automation.id)
        block = client.read_block_document_by_name(apply.WEBHOOK_BLOCK, "webhook")
        client.delete_block_document(block.id)
        client.delete_work_pool("dae")


@pytest.fixture
def deployed(first: First, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, with everything of it on the server."""
    monkeypatch.setenv("DAE_HOME", str(first.folder))
    monkeypatch.setenv("DAE_WEBHOOK_URL", WEBHOOK)
    return first.folder


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


def test_on_a_new_server_everything_is_missing_and_checking_makes_nothing(first: First) -> None:
    code, out, err = first.checked
    assert (code, err) == (10, "")
    assert words(out)[:-1] == lines("missing")
    assert out.splitlines()[-1] == f"9 of 9 differ; {command_lines.dae_command('deploy')} changes that."
    assert first.untouched


def test_deploying_makes_what_is_missing(first: First, deployed: Path, client: SyncPrefectClient) -> None:
    code, out, err = first.done
    assert (code, err) == (0, "")
    assert words(out) == lines("created")
    assert WEBHOOK not in out
    assert client.read_work_pool("dae").concurrency_limit == 3
    retrain = client.read_deployment_by_name("train-denoiser/retrain")
    file = yaml.safe_load((deployed / "configs" / "default.yaml").read_text()) or {}
    assert retrain.parameters == {"config": PipelineConfig.model_validate(file).model_dump(mode="json")}
    assert [each.active for each in retrain.schedules] == [True]
    assert retrain.enforce_parameter_schema
    (notify,) = client.read_automations_by_name("dae-notify")
    block = client.read_block_document_by_name(apply.WEBHOOK_BLOCK, "webhook", include_secrets=True)
    assert block.data["url"] == WEBHOOK
    assert [action.model_dump()["block_document_id"] for action in notify.actions] == [block.id]


def test_deploying_again_changes_nothing(deployed: Path, client: SyncPrefectClient) -> None:
    def held() -> Any:
        names = NAMES["automation"]
        return client.read_deployments(), [client.read_automations_by_name(name) for name in names]

    before = held()
    for arguments in (["--check"], []):
        code, out, _ = deploy(*arguments)
        assert (code, out.splitlines()[-1]) == (0, "Nothing differs.")
        assert words(out)[:-1] == lines("as asked")
    assert held() == before


def change_five(client: SyncPrefectClient) -> None:
    """Change two deployments, the work pool and two automations, as by hand in Prefect's pages."""
    retrain = client.read_deployment_by_name("train-denoiser/retrain")
    config = copy.deepcopy(retrain.parameters["config"])
    config["train"]["epochs"] = 99
    client.update_deployment(retrain.id, DeploymentUpdate(parameters={"config": config}, concurrency_limit=5))
    for name in SCHEDULED:
        found = client.read_deployment_by_name(name)
        client.update_deployment_schedule(found.id, found.schedules[0].id, active=False)
    client.update_work_pool("dae", WorkPoolUpdate(concurrency_limit=1))
    (notify,) = client.read_automations_by_name("dae-notify")
    client.pause_automation(notify.id)
    (hanging,) = client.read_automations_by_name("dae-cancel-hanging")
    tree = hanging.model_dump(mode="json", exclude={"id", "owner_resource"})
    tree["trigger"]["within"] = 60
    client.update_automation(hanging.id, AutomationCore.model_validate(tree))


def test_what_was_changed_on_the_server_is_named_and_put_right(deployed: Path, client: SyncPrefectClient) -> None:
    change_five(client)
    code, out, _ = deploy("--check")
    assert code == 10
    assert out.splitlines()[-1] == f"5 of 9 differ; {command_lines.dae_command('deploy')} changes that."
    differing = {
        "work pool": ["dae"],
        "deployment": ["retrain", "sweep"],
        "automation": ["dae-notify", "dae-cancel-hanging"],
    }
    assert [line for line in words(out) if line[0] == "differs"] == lines("differs", differing)
    for said in (
        "concurrency_limit: specified 3, found 1",
        "parameters.config.train.epochs: specified 8, found 99",
        "concurrency: specified [1, ",
        "schedules: specified [",
        "enabled: specified true, found false",
        "trigger.within: specified 25200.0, found 60.0",
    ):
        assert said in out, out

    code, out, err = deploy()
    assert (code, err) == (0, "")
    assert [line for line in words(out) if line[0] == "updated"] == lines("updated", differing)
    assert deploy("--check").out.splitlines()[-1] == "Nothing differs."
    retrain = client.read_deployment_by_name("train-denoiser/retrain")
    assert retrain.parameters["config"]["train"]["epochs"] == 8
    for name in SCHEDULED:
        assert [each.active for each in client.read_deployment_by_name(name).schedules] == [True]
    assert client.read_automations_by_name("dae-notify")[0].enabled


def test_what_was_deleted_is_missing_and_made_again(deployed: Path, client: SyncPrefectClient) -> None:
    (silent,) = client.read_automations_by_name("dae-crash-silent")
    client.delete_automation(silent.id)
    assert ["missing", "automation", "dae-crash-silent"] in words(deploy("--check").out)
    assert ["created", "automation", "dae-crash-silent"] in words(deploy().out)
    assert len(client.read_automations_by_name("dae-crash-silent")) == 1


def test_a_second_automation_of_one_name_is_named_and_goes(deployed: Path, client: SyncPrefectClient) -> None:
    """Two first deployments at one moment make each twice: the server asks for no name to be the only one."""
    (silent,) = client.read_automations_by_name("dae-crash-silent")
    client.create_automation(AutomationCore.model_validate(silent.model_dump(exclude={"id", "owner_resource"})))
    code, out, _ = deploy("--check")
    assert (code, out.splitlines()[-1]) == (10, f"1 of 9 differ; {command_lines.dae_command('deploy')} changes that.")
    assert "specified once, found 2 times" in out
    assert ["updated", "automation", "dae-crash-silent"] in words(deploy().out)
    assert len(client.read_automations_by_name("dae-crash-silent")) == 1
    assert deploy("--check").out.splitlines()[-1] == "Nothing differs."


@pytest.mark.slow
def test_a_project_that_moved_differs_and_its_runs_follow(
    deployed: Path, client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(deployed, tmp_path / "moved")
    place = "prefect.deployments.steps.set_working_directory"
    for folder, before in ((moved, deployed), (deployed, moved)):
        monkeypatch.setenv("DAE_HOME", str(folder))
        code, out, _ = deploy("--check")
        assert code == 10
        assert f'pull.{place}.directory: specified "{folder}", found "{before}"' in out
        assert deploy().code == 0
        for name in SCHEDULED:
            assert client.read_deployment_by_name(name).pull_steps == [{place: {"directory": str(folder)}}]


def test_another_webhook_differs_and_its_address_is_not_shown(
    deployed: Path, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAE_WEBHOOK_URL", f"{WEBHOOK}-moved")
    code, out, _ = deploy("--check")
    assert code == 10
    assert "url: another than DAE_WEBHOOK_URL" in out
    assert "sesame" not in out
    assert ["updated", "webhook", "dae-notify"] in words(deploy().out)
    block = client.read_block_document_by_name(apply.WEBHOOK_BLOCK, "webhook", include_secrets=True)
    assert block.data["url"] == f"{WEBHOOK}-moved"
    monkeypatch.setenv("DAE_WEBHOOK_URL", WEBHOOK)
    assert deploy().code == 0


Change = Callable[[dict[str, Any]], Any]
CHANGES: dict[str, tuple[Change, str]] = {
    "description": (lambda tree: tree.update(description="other"), 'description: specified "other", found "The whole'),
    "tag": (lambda tree: tree.update(tags=["dae", "new"]), 'tags: specified ["dae", "new"], found ["dae"]'),
    "cron": (lambda tree: tree["schedules"][0].update(cron="0 5 * * *"), 'schedules: specified [["0 5 * * *"'),
    "switched off": (lambda tree: tree["schedules"][0].update(active=False), "false]], found [["),
    "no schedule": (lambda tree: tree.pop("schedules"), "schedules: specified [], found [["),
    "limit": (lambda tree: tree.update(concurrency_limit=None), "concurrency: specified null, found [1, "),
    "variable": (
        lambda tree: tree["work_pool"]["job_variables"]["env"].update(DAE_TIMEOUT_HOURS="7"),
        'job_variables.env.DAE_TIMEOUT_HOURS: specified "7", found "6"',
    ),
    "no variable": (
        lambda tree: tree["work_pool"]["job_variables"].pop("stream_output"),
        "job_variables.stream_output: specified null, found false",
    ),
    "pulled": (
        lambda tree: tree.update(pull=[{"prefect.deployments.steps.git_clone": {"repository": "r"}}]),
        'pull.prefect.deployments.steps.git_clone: specified {"repository": "r"}, found null',
    ),
    "entrypoint": (
        lambda tree: tree.update(entrypoint="flows.check_drift:retrain_if_stale"),
        "missing   deployment  retrain",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_in_the_file_is_named(deployed: Path, name: str) -> None:
    change, said = CHANGES[name]
    tree = yaml.safe_load((deployed / "prefect.yaml").read_text())
    change(tree["deployments"][0])
    (deployed / "changed.yaml").write_text(yaml.safe_dump(tree))
    code, out, _ = deploy("--check", "--file", str(deployed / "changed.yaml"))
    assert code == 10
    assert said in out, out
    # Another flow's deployment is another one, and the one there was is not specified then.
    assert ("2 of 10 differ" if name == "entrypoint" else "1 of 9 differ") in out


def test_what_was_changed_in_a_configuration_is_named(deployed: Path) -> None:
    file = deployed / "configs" / "smoke.yaml"
    text = file.read_text()
    file.write_text(text.replace("epochs: 2", "epochs: 3"))
    try:
        code, out, _ = deploy("--check")
    finally:
        file.write_text(text)
    assert code == 10
    assert "parameters.config.train.epochs: specified 3, found 2" in out


# Without a webhook


def test_without_a_webhook_only_what_needs_none_is_asked_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {each.name: each.actions for each in spec.read_automations(project / "deploy" / "server.yaml", None)}
    assert {name: [action.type for action in actions] for name, actions in asked.items()} == {
        "dae-cancel-hanging": ["cancel-flow-run"],
        "dae-crash-silent": ["change-flow-run-state"],
    }


# Files that are wrong


def first_deployment(change: Change) -> Change:
    return lambda tree: change(tree["deployments"][0])


WRONG: dict[str, tuple[str, str | Change, str]] = {
    "not there": ("prefect.yaml", "", "cannot be read as YAML"),
    "not YAML": ("prefect.yaml", "deployments: [", "cannot be read as YAML"),
    "a list": ("prefect.yaml", "- retrain", "must be a mapping, received list"),
    "no deployments": ("prefect.yaml", lambda tree: tree.pop("deployments"), "lacks 'deployments'"),
    "no work pool": ("prefect.yaml", first_deployment(lambda tree: tree.pop("work_pool")), "lacks 'work_pool'"),
    "no name": ("prefect.yaml", first_deployment(lambda tree: tree.pop("name")), "lacks 'name'"),
    "no entrypoint": ("prefect.yaml", first_deployment(lambda tree: tree.pop("entrypoint")), "lacks 'entrypoint'"),
    "a pool's field": (
        "deploy/server.yaml",
        lambda tree: tree["work_pools"][0].update(limit=3),
        "work_pools: 1 validation error",
    ),
    "a pool's limit": (
        "deploy/server.yaml",
        lambda tree: tree["work_pools"][0].update(concurrency_limit="many"),
        "work_pools: 1 validation error",
    ),
    "an automation's trigger": (
        "deploy/server.yaml",
        lambda tree: tree["automations"][2]["trigger"].update(posture="Sitting"),
        "automation dae-crash-silent: ",
    ),
    "an automation's action": (
        "deploy/server.yaml",
        lambda tree: tree["automations"][1]["actions"][0].update(type="sing"),
        "automation dae-cancel-hanging: ",
    ),
}


def damage(file: Path, change: str | Change) -> None:
    if change == "":
        file.unlink()
    elif isinstance(change, str):
        file.write_text(change)
    else:
        tree = yaml.safe_load(file.read_text())
        change(tree)
        file.write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("prefect_server")
def test_a_file_that_is_wrong_is_named_and_changes_nothing(project: Path, name: str, client: SyncPrefectClient) -> None:
    file, change, said = WRONG[name]
    damage(project / file, change)
    before = client.read_deployments(), client.read_work_pools()
    code, out, err = deploy()
    assert (code, out) == (2, ""), err
    assert str(project / file) in err.replace("\n", "")
    assert said in err.replace("\n", " ")
    assert (client.read_deployments(), client.read_work_pools()) == before


STRANGE: dict[str, Change] = {
    "a name that is a number": first_deployment(lambda tree: tree.update(name=3)),
    "parameters that are a list": first_deployment(lambda tree: tree.update(parameters=[1])),
    "a limit in words": first_deployment(
        lambda tree: tree.update(concurrency_limit={"limit": "many", "collision_strategy": "ENQUEUE"})
    ),
    "a deployment that is a word": lambda tree: tree.update(deployments=["retrain"]),
    "a configuration that is not there": lambda tree: tree["build"][0][
        "flows.deployment.build_steps.configuration"
    ].update(file="configs/nowhere.yaml"),
    "a configuration that is refused": lambda tree: tree["build"][0][
        "flows.deployment.build_steps.configuration"
    ].update(file="configs/bad.yaml"),
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.usefixtures("prefect_server")
def test_a_file_that_is_strange_is_bad_usage_too(project: Path, name: str) -> None:
    (project / "configs" / "bad.yaml").write_text("train: {epochs: 0}\n")
    damage(project / "prefect.yaml", STRANGE[name])
    code, _, err = deploy("--check")
    assert code == 2, err
    if "configuration" in name:
        assert "nowhere.yaml: cannot be read" in err or "train.epochs" in err


def test_a_configuration_becomes_a_parameter_with_every_default(home: Path) -> None:
    (home / "small.yaml").write_text("train: {epochs: 3}\n")
    config = build_steps.configuration("small.yaml")["config"]
    assert config == PipelineConfig.model_validate({"train": {"epochs": 3}}).model_dump(mode="json")
    assert build_steps.configuration(str(home / "small.yaml"))["config"] == config
    (home / "bad.yaml").write_text("train: {epoch: 3}\n")
    for name, said in (("bad.yaml", "train.epoch: unknown key"), ("none.yaml", "none.yaml: cannot be read")):
        with pytest.raises(ConfigError, match=said):
            build_steps.configuration(name)


# Servers that cannot be used


@pytest.mark.parametrize("arguments", [["--check"], []])
def test_without_a_server_the_message_says_how_to_get_one(
    prefect_server: None, project: Path, arguments: list[str]
) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        code, out, err = deploy(*arguments)
    assert (code, out) == (1, "")
    assert "PREFECT_API_URL must name a Prefect server, received none; make services starts one" in err


def test_a_server_that_does_not_answer_is_named(prefect_server: None, project: Path, unused_port: int) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{unused_port}/api"}):
        code, out, err = deploy("--check")
    assert (code, out) == (1, "")
    assert f"no server answers at http://127.0.0.1:{unused_port}/api" in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("status", "said"), [(401, "PREFECT_API_AUTH_STRING must be the server's"), (404, "it must answer")]
)
def test_a_server_that_lets_nobody_in_or_is_another_is_told_apart(
    prefect_server: None, project: Path, answering: Callable[[int], int], status: int, said: str
) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{answering(status)}/api"}):
        code, out, err = deploy("--check")
    assert (code, out) == (1, "")
    assert f"{said}, received HTTP status {status}" in err.replace("\n", " ")
