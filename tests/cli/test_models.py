"""``dae models``, ``promote``, ``rollback`` and ``approve`` on a real registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dae import command_lines, runtime
from dae.cli import app
from dae.config import loading
from dae.config.schema import GateConfig
from dae.promotion import audit_log, promote, registry
from dae.promotion.schemas import Candidate, Check, GateResult, SmokeTestResult
from dae.tracking.run_logging import set_tags
from flows.train import train_denoiser

Register = Callable[..., Candidate]
SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
TINY = [
    "data.limit=300",
    "data.validation=60",
    "data.test_limit=60",
    "train.epochs=1",
    "model.width=8",
    "gate.smoke_test=null",
]


def dae(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def decide(candidate: Candidate, *, passes: bool, force: str | None = None) -> None:
    check = Check(name="val_mse", value=0.5, limit=1, source="gate", passed=passes, reason="val_mse: the reason")
    verdict = GateResult(promoted=passes, checks=(check,), reasons=() if passes else (check.reason,))
    promote.decide_promotion(
        candidate, lambda *_, at_once: verdict, GateConfig(force=force), smoke_test=SmokeTestResult, val_mse=0.5
    )


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promote, "MOMENT", 0.01)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the database of the story is kept once it was made."""
    return tmp_path_factory.mktemp("story") / "mlflow.db"


@pytest.fixture
def story(register_version: Register, mlflow_store: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promoted, refused, forced, and one not judged yet."""
    monkeypatch.setenv("DAE_ACTOR", "ada")
    if not kept.exists():
        decide(register_version(), passes=True)
        decide(register_version(), passes=False)
        decide(register_version(), passes=False, force="demo on Friday")
        register_version()
        shutil.copy(mlflow_store, kept)
    shutil.copy(kept, mlflow_store)


@pytest.mark.usefixtures("story")
def test_models_lists_versions_verdicts_and_aliases() -> None:
    code, out, err = dae("models")
    assert (code, err) == (0, "")
    assert "FORCED" in out
    assert "ada: demo on Friday" in out
    records = json.loads(dae("models", "--json")[1])
    assert [(each["version"], each["verdict"], each["aliases"]) for each in records] == [
        ("4", "pending", ["challenger"]),
        ("3", "forced", ["champion"]),
        ("2", "refused", []),
        ("1", "promoted", []),
    ]
    assert records[1]["forced"]
    assert records[2]["reason"] == "val_mse: the reason"


@pytest.mark.usefixtures("story")
def test_history_tells_every_decision() -> None:
    code, out, _ = dae("models", "history")
    assert code == 0
    assert "FORCED" in out
    records = json.loads(dae("models", "history", "--json")[1])
    assert [(each["event"], each["version"], each["champion"], each["who"]) for each in records] == [
        ("promoted", "1", "1", "ada"),
        ("refused", "2", "1", "ada"),
        ("forced", "3", "3", "ada"),
    ]


@pytest.mark.usefixtures("story")
def test_live_tells_who_is_and_who_was_and_why() -> None:
    code, out, _ = dae("models", "live")
    assert code == 0
    assert out.startswith("dae version 3 is live since ")
    assert "FORCED by ada: demo on Friday" in out
    first, _, third = audit_log.read_entries("dae")
    day = f"{third.at.astimezone():%Y-%m-%d}"
    assert [each["version"] for each in json.loads(dae("models", "live", "--at", day, "--json")[1])] == ["1", "3"]
    assert dae("models", "live", "--at", day)[1].startswith("dae version 1 was live from ")
    moment = (first.at + (third.at - first.at) / 2).isoformat()
    assert [each["version"] for each in json.loads(dae("models", "live", "--at", moment, "--json")[1])] == ["1"]
    code, out, _ = dae("models", "live", "--at", "2001-01-01")
    assert (code, out) == (1, "No version of dae was live on 2001-01-01.\n")


@pytest.mark.usefixtures("mlflow_store")
def test_of_a_model_that_is_not_there() -> None:
    assert dae("models")[:2] == (0, f"No versions of dae yet. Make one with: {command_lines.dae_command('train')}\n")
    assert dae("models", "--json")[:2] == (0, "[]\n")
    assert dae("models", "history")[1].startswith("The audit log of dae is empty")
    assert dae("models", "live")[:2] == (1, "No version of dae is live.\n")


@pytest.mark.usefixtures("story")
def test_an_alias_moved_by_other_means_is_told() -> None:
    registry.set_alias("dae", registry.CHAMPION, "2")
    assert "alias champion of dae names version 2, the audit log version 3" in dae("models")[2]
    out = dae("models", "live")[1]
    assert out.startswith("dae version 2 is live since ")
    assert "found by unknown: the alias had been moved by other means" in out
    assert len(audit_log.read_entries("dae")) == 3  # looking notes nothing


def test_what_was_live_before_the_ledger_is_not_known(register_version: Register) -> None:
    registry.set_alias("dae", registry.CHAMPION, register_version().version)
    assert dae("models", "live")[1].startswith("dae version 1 is live since ")
    code, out, _ = dae("models", "live", "--at", "2001-01-01")
    assert code == 1
    assert out.startswith("Unknown: the audit log of dae begins at ")
    assert out.endswith("when version 1 was already live.\n")


@pytest.mark.slow
@pytest.mark.usefixtures("story")
def test_a_forced_version_is_marked_however_it_came_back() -> None:
    decide(registry.get_candidate("dae", "2"), passes=True)
    decide(registry.get_candidate("dae", "3"), passes=False)
    assert dae("rollback", "--reason", "it blurs", "--to", "3")[0] == 0
    assert "it was FORCED by ada: demo on Friday" in dae("models", "live")[1]
    assert json.loads(dae("models", "live", "--json")[1])[0]["forced"]["reason"] == "demo on Friday"
    assert "FORCED, then rolled back to" in " ".join(dae("models")[1].split())


@pytest.mark.usefixtures("story")
def test_options_may_stand_before_a_subcommand() -> None:
    assert dae("models", "--name", "other", "history")[1].startswith("The audit log of other is empty")
    assert len(json.loads(dae("models", "--json", "history")[1])) == 3


BAD_USAGE: list[tuple[list[str], int, str]] = [
    (["rollback"], 2, "Missing option '--reason'"),
    (["rollback", "--reason", " "], 2, "--reason must say why"),
    (["rollback", "--reason", "it blurs", "--to", "2"], 1, "version 2 of dae was never the champion"),
    (["rollback", "--reason", "it blurs", "--name", "nothing"], 1, "nothing has no champion before"),
    (["promote", "9"], 1, "dae has no version 9"),
    (["promote", "03"], 1, "version 3 of dae is the champion already"),
    (["promote", "2", "--force"], 2, "--force needs --reason"),
    (["promote", "2", "--reason", "so"], 2, "--reason goes with --force"),
    (["promote", "2", "--set", "train.epochs=3"], 2, "--set must be of the gate here"),
    (["promote", "2", "--set", "gate.nonsense=3"], 2, "gate.nonsense: unknown key"),
    (["promote", "+2"], 2, "VERSION must be a whole number"),
    (["promote", "02x"], 2, "VERSION must be a whole number"),
    (["models", "--name", "a'b"], 2, "must be letters, digits"),
    (["models", "live", "--at", "2999-01-01"], 2, "--at must not lie in the future"),
    (["models", "live", "--at", "0001-01-01"], 2, "--at must be a day or a moment"),
    (["promote", "2", "--approval-hours", "0"], 2, "gate.approval_hours"),
    (["models", "live", "--at", "yesterday"], 2, "--at must be a day or a moment"),
    (["approve", "nonsense", "--yes"], 2, "the flow run must be given by its id"),
    (["train", "--force"], 2, "--force needs --reason"),
]


@pytest.mark.usefixtures("story")
def test_bad_usage_is_told_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    before = audit_log.read_entries("dae")
    for arguments, code, message in BAD_USAGE:
        found, _, err = dae(*arguments)
        assert (found, arguments) == (code, arguments)
        assert message in err
    assert audit_log.read_entries("dae") == before
    assert registry.find_champion("dae") == "3"


@pytest.mark.slow
@pytest.mark.usefixtures("story")
def test_rollback_tries_the_target_and_puts_it_back() -> None:
    code, out, _ = dae("rollback", "--reason", "it blurs")
    assert (code, out) == (0, "Rolled back: dae version 1 is the champion again, in place of version 3.\n")
    assert registry.find_champion("dae") == "1"
    assert audit_log.read_entries("dae")[-1].reason == "it blurs"


@pytest.mark.slow
@pytest.mark.usefixtures("story")
def test_rollback_to_a_version_that_was_tampered_with_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.set_version_tags("dae", "1", {"model_sha256": "0" * 64})
    code, _, err = dae("rollback", "--reason", "it blurs")
    assert code == 1
    assert "version 1 of dae does not work, and 3 stays: checksum" in err
    assert registry.find_champion("dae") == "3"


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server", "mlflow_store")
def test_promote_puts_a_refused_version_through_the_same_gate() -> None:
    runtime.configure(terminal=True)
    config = loading.load(SMOKE, [*TINY, "gate.max_val_mse=0.000001"])
    assert not train_denoiser(config).version.decision.promoted
    name = ["--name", "dae-smoke"]

    code, out, _ = dae("promote", "1", *name)
    assert code == 10
    assert "is above 0.00000 (gate.max_val_mse)" in out
    code, out, _ = dae("promote", "1", *name, "--set", "gate.max_val_mse=0.9", "--dry-run")
    assert code == 0
    assert "Dry run: dae-smoke version 1 would be promoted; no alias was moved." in out
    assert registry.find_champion("dae-smoke") is None
    code, out, _ = dae("promote", "1", *name, "--force", "--reason", "demo on Friday")
    assert code == 0
    assert "FORCED by " in out
    code, _, err = dae("promote", "1", *name)
    assert code == 1
    assert "version 1 of dae-smoke is the champion already" in err
    assert [entry.event for entry in audit_log.read_entries("dae-smoke")] == ["refused", "refused", "forced"]
    runs = json.loads(dae("runs", "--json")[1])
    assert [run["verdict"] for run in runs] == ["forced"]

    assert dae("promote", "01", *name)[0] == 1  # by no other name either
    assert [entry.event for entry in audit_log.read_entries("dae-smoke")] == ["refused", "refused", "forced"]
    registry_run = registry.get_version("dae-smoke", "1").run_id
    set_tags(registry_run, {"data_digest": "0" * 64})
    registry.set_alias("dae-smoke", registry.CHAMPION, None)
    code, _, err = dae("promote", "1", *name)
    assert code == 1
    assert "had images of data_digest 000" in err
