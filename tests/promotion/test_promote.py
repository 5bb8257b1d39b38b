"""Promotion and rollback on a real MLflow store: the audit log and the aliases, races, and crashes between any two steps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dae.config.schema import GateConfig
from dae.promotion import audit_log, history, promote, registry
from dae.promotion.registry import RegistryError
from dae.promotion.rollback import rollback as rollback_of
from dae.promotion.schemas import ApprovalAnswer, Candidate, Check, Decision, DecisionEvent, GateResult, SmokeTestResult
from dae.tracking import models
from dae.tracking.client import connect

Register = Callable[..., Candidate]
WORKS = SmokeTestResult(sha256="a", recorded_sha256="a", difference=0.0)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promote, "MOMENT", 0.01)


def gate_result(*, promoted: bool, champion: str | None = None) -> GateResult:
    reason = "val_mse: 0.00100 is at most 0.00690" if promoted else "val_mse: 0.01000 is above 0.00690"
    check = Check(name="val_mse", value=0.001, limit=0.0069, source="gate", passed=promoted, reason=reason)
    return GateResult(promoted=promoted, checks=(check,), reasons=() if promoted else (reason,), champion=champion)


def decide(
    candidate: Candidate,
    *,
    passes: bool | Callable[[str | None], bool] = True,
    answer: ApprovalAnswer | None = None,
    smoke_test: SmokeTestResult = WORKS,
    **switches: object,
) -> Decision:
    def evaluate(champion: str | None, /, *, at_once: bool) -> GateResult:
        return gate_result(promoted=passes if isinstance(passes, bool) else passes(champion), champion=champion)

    policy = GateConfig.model_validate(switches)
    return promote.decide_promotion(
        candidate, evaluate, policy, smoke_test=lambda: smoke_test, answer=answer, val_mse=0.001
    )


def history_of(name: str = "dae") -> list[tuple[str, str | None, str | None]]:
    """Return what the audit log says: event, version, and who is live after it."""
    return [(entry.event, entry.version, entry.champion) for entry in audit_log.read_entries(name)]


def tags(version: str) -> dict[str, str]:
    return dict(registry.get_version("dae", version).tags)


def test_a_promoted_version_is_the_champion_and_everything_says_so(register_version: Register) -> None:
    candidate = register_version()
    decision = decide(candidate)
    assert (decision.event, decision.promoted) == ("promoted", True)
    assert registry.list_aliases("dae") == {"champion": "1"}
    assert history_of() == [("promoted", "1", "1")]
    assert tags("1")["verdict"] == "promoted"
    assert "0.00690" in tags("1")["verdict_reasons"]
    assert '"name": "val_mse"' in tags("1")["verdict_checks"]
    run = connect().get_run(candidate.run_id)
    assert (run.data.tags["verdict"], run.data.tags["model_version"]) == ("promoted", "1")
    assert audit_log.read_state("dae").pending == ()


def test_a_refusal_leaves_the_champion_and_is_in_the_audit_log(register_version: Register) -> None:
    decide(register_version())
    decision = decide(register_version(), passes=False)
    assert (decision.event, decision.promoted) == ("refused", False)
    assert registry.list_aliases("dae") == {"champion": "1"}
    assert history_of()[-1] == ("refused", "2", "1")
    assert tags("2")["verdict"] == "refused"
    assert tags("2")["verdict_reasons"] == "val_mse: 0.01000 is above 0.00690"


def test_the_champion_is_exactly_the_promoted_version_whatever_is_registered_later(register_version: Register) -> None:
    for passes in (True, False, True, False):
        decide(register_version(), passes=passes)
    assert registry.find_champion("dae") == "3"
    later = register_version()
    assert registry.list_aliases("dae") == {"champion": "3", "challenger": later.version}


def test_a_dry_run_changes_nothing_of_a_version_that_was_judged(register_version: Register) -> None:
    decide(register_version())
    candidate = register_version()
    decide(candidate, passes=False)
    before = (history_of(), registry.list_aliases("dae"), tags("2"))
    assert decide(candidate, dry_run=True).promoted
    assert not decide(candidate, passes=False, dry_run=True).promoted
    assert decide(candidate, passes=False, dry_run=True, force="demo").event == "forced"
    assert (history_of(), registry.list_aliases("dae"), tags("2")) == before


def test_a_new_version_says_what_a_dry_run_found_and_is_no_challenger(register_version: Register) -> None:
    decide(register_version())
    candidate = register_version(dry_run=True)
    promote.tag_dry_run(candidate, decide(candidate, passes=False, dry_run=True))
    assert registry.list_aliases("dae") == {"champion": "1"}
    assert tags("2")["verdict"] == "dry run"
    assert tags("2")["verdict_reasons"] == "would be refused: val_mse: 0.01000 is above 0.00690"
    assert len(history_of()) == 1


def test_a_dry_run_changes_nothing_of_a_version_that_waits_to_be_judged(register_version: Register) -> None:
    decide(register_version())
    candidate = register_version()
    before = (history_of(), registry.list_aliases("dae"), tags("2"))
    assert decide(candidate, dry_run=True).promoted
    assert (history_of(), registry.list_aliases("dae"), tags("2")) == before
    register_version(dry_run=True)
    assert registry.list_aliases("dae") == {"champion": "1", "challenger": "2"}


def test_a_dry_run_on_a_new_registry_makes_no_audit_log(register_version: Register) -> None:
    assert decide(register_version(), dry_run=True).dry_run
    assert connect().get_experiment_by_name("dae ledger") is None


def test_a_forced_version_carries_who_when_and_why(register_version: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAE_ACTOR", "ada")
    decision = decide(register_version(), passes=False, force="demo on Friday")
    assert (decision.event, decision.who, decision.reason) == ("forced", "ada", "demo on Friday")
    assert registry.find_champion("dae") == "1"
    found = registry.get_version("dae", "1")
    assert found.tags["verdict"] == "forced"
    assert (found.tags["forced_by"], found.tags["forced_reason"]) == ("ada", "demo on Friday")
    assert found.description.startswith("FORCED by ada on ")
    (entry,) = audit_log.read_entries("dae")
    assert (entry.event, entry.who, entry.reason) == ("forced", "ada", "demo on Friday")
    assert history.find_forced(audit_log.read_entries("dae"), "1") == entry
    assert found.tags["forced_at"] == entry.at.isoformat(timespec="seconds")


def test_whoever_loads_a_forced_model_is_told_whatever_names_it(
    register_version: Register, caplog: pytest.LogCaptureFixture
) -> None:
    candidate = register_version()
    decide(candidate, passes=False, force="demo on Friday")
    for reference in ("1", "models:/dae@champion", candidate.run_id, candidate.model_uri):
        caplog.clear()
        models.locate_model(reference)
        assert "version 1 of dae" in caplog.text
        assert "FORCED" in caplog.text


def test_a_forced_version_stays_marked_until_the_gate_lets_it_pass(register_version: Register) -> None:
    candidate = register_version()
    decide(candidate, passes=False, force="demo on Friday")
    decide(register_version())
    decide(candidate, passes=False)
    assert tags("1")["forced_reason"] == "demo on Friday"
    assert history.find_forced(audit_log.read_entries("dae"), "1") is not None
    decide(candidate)
    found = registry.get_version("dae", "1")
    assert "forced_reason" not in found.tags
    assert found.description.startswith("Promoted by ")
    assert history.find_forced(audit_log.read_entries("dae"), "1") is None


def test_force_is_not_needed_where_the_gate_lets_pass(register_version: Register) -> None:
    assert decide(register_version(), force="to be sure").event == "promoted"


def test_not_even_force_promotes_a_version_that_does_not_load(register_version: Register) -> None:
    decision = decide(
        register_version(), passes=False, force="now", smoke_test=SmokeTestResult(error="ValueError: no zip")
    )
    assert decision.event == "refused"
    assert "not even by force: loads: ValueError: no zip" in decision.reason
    assert registry.find_champion("dae") is None


def answered(
    *, approved: bool | None, event: DecisionEvent = "promoted", champion: str | None = None, comment: str = ""
) -> ApprovalAnswer:
    return ApprovalAnswer(approved=approved, who="ada", event=event, champion=champion, comment=comment)


def test_whoever_forces_is_named_beside_who_approves(
    register_version: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAE_ACTOR", "bob")
    answer = answered(approved=True, event="forced")
    decision = decide(register_version(), passes=False, force="demo", approval_hours=1, answer=answer)
    assert (decision.event, decision.who, decision.reason) == ("forced", "bob", "demo; approved by ada")
    assert tags("1")["forced_by"] == "bob"


def test_nobody_is_asked_in_a_dry_run_or_about_a_refusal(register_version: Register) -> None:
    assert decide(register_version(), approval_hours=1, dry_run=True).promoted
    refused = decide(register_version(), passes=False, approval_hours=1)
    assert "is above" in refused.reason


@pytest.mark.parametrize(
    ("answer", "event", "reason"),
    [
        (answered(approved=True, comment="looks fine"), "promoted", "approved by ada; looks fine"),
        (answered(approved=False, comment="blurred"), "refused", "not approved by ada: blurred"),
        (answered(approved=None), "refused", "nobody approved it in time"),
        (None, "refused", "changed since approval was requested"),
        (answered(approved=True, champion="7"), "refused", "changed since approval was requested"),
        (answered(approved=True, event="forced"), "refused", "changed since approval was requested"),
    ],
)
def test_a_persons_answer_decides(
    register_version: Register, answer: ApprovalAnswer | None, event: str, reason: str
) -> None:
    decision = decide(register_version(), answer=answer, approval_hours=1)
    assert decision.event == event
    assert reason in decision.reason
    assert history_of() == [(event, "1", "1" if event == "promoted" else None)]


def test_the_champion_itself_is_not_promoted_again(register_version: Register) -> None:
    candidate = register_version()
    decide(candidate)
    with pytest.raises(RegistryError, match="version 1 of dae is the champion already"):
        decide(candidate)


def test_an_exception_of_the_gate_is_an_error_and_decides_nothing(register_version: Register) -> None:
    def broken(_: str | None) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        decide(register_version(), passes=broken)
    assert history_of() == []
    assert tags("1")["verdict"] == "pending"


def test_a_registry_that_cannot_be_read_promotes_and_refuses_nothing(
    register_version: Register, mlflow_store: Path
) -> None:
    candidate = register_version()
    mlflow_store.write_bytes(b"no database" * 1000)
    with pytest.raises(Exception, match="database"):
        decide(candidate)


def test_a_champion_from_before_the_audit_log_is_compared_and_noted(register_version: Register) -> None:
    register_version()
    registry.set_alias("dae", registry.CHAMPION, "1")
    met: list[str | None] = []

    def passes(champion: str | None) -> bool:
        met.append(champion)
        return True

    decide(register_version(), passes=passes)
    assert met == ["1"]
    assert history_of() == [("found", "1", "1"), ("promoted", "2", "2")]
    assert audit_log.read_entries("dae")[0].reason == "live before the audit log began"


def test_an_alias_moved_by_other_means_is_told_and_noted(register_version: Register) -> None:
    decide(register_version())
    decide(register_version())
    registry.set_alias("dae", registry.CHAMPION, "1")
    (note,) = promote.describe_pending("dae")
    assert "names version 1, the audit log version 2: it was moved by other means than dae" in note
    decide(register_version(), passes=False)
    assert history_of()[2:] == [("found", "1", "1"), ("refused", "3", "1")]
    registry.set_alias("dae", registry.CHAMPION, None)
    decide(register_version(), passes=lambda champion: champion is None)
    assert history_of()[4:] == [("found", None, None), ("promoted", "4", "4")]
    assert promote.describe_pending("dae") == []


def test_a_champion_deleted_by_hand_does_not_block_the_next(register_version: Register) -> None:
    decide(register_version())
    connect().delete_model_version("dae", "1")
    decide(register_version())
    assert history_of() == [("promoted", "1", "1"), ("found", None, None), ("promoted", "2", "2")]
    assert registry.find_champion("dae") == "2"


def rollback(to: str | None = None, smoke_test: SmokeTestResult = WORKS) -> history.AuditEntry:
    return rollback_of("dae", "it blurs", lambda _: smoke_test, to)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the reads of the audit log, and the requests for a run of any kind."""
    counts: Counter[str] = Counter()

    def count(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def read(*arguments: object, **named: object) -> object:
            counts[name] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, read)

    count(audit_log, "read_state")
    for name in ("get_run", "search_runs", "get_model_version"):
        count(MlflowClient, name)
    return counts


def test_a_promotion_and_a_rollback_read_the_audit_log_no_more_than_they_must(
    register_version: Register, reads: Counter[str]
) -> None:
    """Once to decide, once before the alias is moved, and once after: another process may have written in between."""
    for _ in range(2):
        decide(register_version())
    third = register_version()
    reads.clear()
    decide(third)
    assert reads["read_state"] == 3
    assert reads["search_runs"] == 4  # those, and once for the run that the new entry is written to
    assert reads["get_model_version"] == 2
    reads.clear()
    rollback()
    assert reads["read_state"] == 3
    assert reads["search_runs"] == 4
    assert reads["get_run"] <= 1
    reads.clear()
    promote.describe_pending("dae")
    assert reads["read_state"] == 1


def test_an_entry_that_another_process_applied_meanwhile_does_not_move_the_alias_back(
    register_version: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the tags of version 1 are written, another process finishes that promotion, and promotes version 2."""
    first, second = register_version(), register_version()
    original = registry.set_version_tags
    moved: list[str | None] = []

    def write_tags(name: str, number: str, tags: dict[str, str | None], description: str | None = None) -> None:
        original(name, number, tags, description)
        if description and number == "1" and not moved:
            moved.append(None)
            promote.reconcile(name)
            decide(second)
            moved.append(registry.find_champion(name))
            monkeypatch.setattr(registry, "set_alias", lambda *_: moved.append("back"))

    monkeypatch.setattr(registry, "set_version_tags", write_tags)
    decide(first)
    assert moved == [None, "2"]
    assert registry.find_champion("dae") == "2"


def test_rollback_puts_the_previous_champion_back_and_then_the_one_before(register_version: Register) -> None:
    for _ in range(3):
        decide(register_version())
    entry = rollback()
    assert (entry.version, entry.against, entry.reason) == ("2", "3", "it blurs")
    assert registry.find_champion("dae") == "2"
    assert rollback().version == "1"
    with pytest.raises(RegistryError, match="no champion before"):
        rollback()
    assert rollback("3").version == "3"
    assert [event for event, *_ in history_of()] == ["promoted"] * 3 + ["rolled back"] * 3
    assert registry.find_champion("dae") == "3"
    assert (tags("3")["verdict"], tags("3")["verdict_reasons"]) == ("rolled back to", "it blurs")


def test_a_champion_that_came_back_is_not_shown_as_refused(register_version: Register) -> None:
    first = register_version()
    decide(first)
    decide(register_version())
    decide(first, passes=False)
    assert tags("1")["verdict"] == "refused"
    rollback()
    assert tags("1")["verdict"] == "rolled back to"
    assert registry.get_version("dae", "1").description.startswith("Rolled back to by ")


def test_a_run_deleted_by_hand_stops_neither_its_promotion_nor_a_rollback(register_version: Register) -> None:
    first, second = register_version(), register_version()
    decide(first)
    connect().delete_run(second.run_id)
    decide(second)
    assert registry.find_champion("dae") == "2"
    assert promote.describe_pending("dae") == []
    assert rollback().version == "1"


def test_rollback_to_a_version_of_a_model_that_no_run_logged(register_version: Register) -> None:
    source = register_version().model_uri
    connect().create_model_version("dae", source)
    registry.set_alias("dae", registry.CHAMPION, "2")
    decide(register_version())
    assert rollback().version == "2"
    assert registry.find_champion("dae") == "2"


def test_rollback_takes_a_former_champion_only(register_version: Register) -> None:
    for passes in (True, True, False):
        decide(register_version(), passes=passes)
    for to, message in (
        ("2", "version 2 of dae is the champion already"),
        ("3", r"version 3 of dae was never the champion \(those were: 2, 1\); use \S*dae promote 3"),
        ("9", "version 9 of dae was never the champion"),
    ):
        with pytest.raises(RegistryError, match=message):
            rollback(to)
        assert registry.find_champion("dae") == "2"


def test_rollback_to_a_version_that_does_not_work_changes_nothing(register_version: Register) -> None:
    decide(register_version())
    decide(register_version())
    for smoke_test, message in (
        (SmokeTestResult(error="ValueError: no zip"), "loads: ValueError: no zip"),
        (SmokeTestResult(sha256="b", recorded_sha256="a", difference=0.0), "checksum"),
        (SmokeTestResult(sha256="a", recorded_sha256="a", difference=0.1), "outputs"),
    ):
        with pytest.raises(RegistryError, match=f"version 1 of dae does not work, and 2 stays: {message}"):
            rollback(smoke_test=smoke_test)
        assert registry.find_champion("dae") == "2"
        assert len(history_of()) == 2


def test_rollback_to_a_version_from_before_digests_were_recorded_works_and_says_so(register_version: Register) -> None:
    decide(register_version())
    decide(register_version())
    assert "no digest or outputs were recorded" in rollback(smoke_test=SmokeTestResult(sha256="b")).reason
    assert registry.find_champion("dae") == "1"


def test_rollback_after_the_alias_was_removed_goes_back_to_the_last_champion(register_version: Register) -> None:
    decide(register_version())
    decide(register_version())
    registry.set_alias("dae", registry.CHAMPION, None)
    assert rollback().version == "2"


def test_rollback_of_a_model_that_has_no_champion(register_version: Register) -> None:
    register_version()
    with pytest.raises(RegistryError, match="no champion before now to go back to"):
        rollback()


def test_rollback_while_another_process_appends_changes_nothing(register_version: Register) -> None:
    decide(register_version())
    decide(register_version())
    third = register_version()

    def promoting(_: str) -> SmokeTestResult:
        decide(third)
        return WORKS

    with pytest.raises(RegistryError, match="went on meanwhile, and nothing was changed"):
        rollback_of("dae", "it blurs", promoting)
    assert registry.find_champion("dae") == "3"


def test_of_two_challengers_at_once_the_second_meets_the_first(register_version: Register) -> None:
    better, worse = register_version(), register_version()
    met: list[str | None] = []

    def passes(champion: str | None) -> bool:
        met.append(champion)
        if champion is None:  # while this one is judged, the other is promoted
            decide(better)
            return True
        return False

    assert not decide(worse, passes=passes).promoted
    assert met == [None, "1"]
    assert history_of() == [("promoted", "1", "1"), ("refused", "2", "1")]
    assert registry.find_champion("dae") == "1"


def test_the_gate_is_told_of_a_champion_that_came_meanwhile(register_version: Register) -> None:
    first, second, other = register_version(), register_version(), register_version()
    decide(first)
    met: list[tuple[str | None, bool]] = []

    def evaluate(champion: str | None, /, *, at_once: bool) -> GateResult:
        if not met:
            decide(other)
        met.append((champion, at_once))
        return gate_result(promoted=True, champion=champion)

    promote.decide_promotion(second, evaluate, GateConfig(), smoke_test=lambda: WORKS)
    assert met == [("1", False), ("3", True)]


def test_the_end_of_a_challenge_leaves_the_challenger_that_came_meanwhile(
    register_version: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_version()
    delete = MlflowClient.delete_registered_model_alias

    def registering(client: MlflowClient, name: str, which: str) -> None:
        delete(client, name, which)
        register_version()

    monkeypatch.setattr(MlflowClient, "delete_registered_model_alias", registering)
    registry.remove_alias("dae", registry.CHALLENGER, "1")
    assert registry.find_alias("dae", registry.CHALLENGER) == "2"


def test_a_promotion_that_another_process_is_at_is_not_taken_for_a_moved_alias(
    register_version: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its entry and its alias, somebody else looks: nothing was moved by other means."""
    decide(register_version())
    second, third = register_version(), register_version()
    original = registry.set_alias
    looked: list[object] = []

    def point(name: str, which: str, version: str | None) -> None:
        if version == "2" and not looked:
            looked.append(promote.reconcile(name, write=False))
            decide(third)
        original(name, which, version)

    monkeypatch.setattr(registry, "set_alias", point)
    decide(second)
    assert looked
    assert [event for event, *_ in history_of()] == ["promoted"] * 3
    assert registry.find_champion("dae") == "3"


WRITES = (
    "create_experiment",
    "create_run",
    "set_terminated",
    "log_param",
    "log_batch",
    "set_model_version_tag",
    "update_model_version",
    "set_registered_model_alias",
    "delete_registered_model_alias",
)


class Killed(BaseException):
    """The process ends here: nothing that comes after is done."""


def kill_before_write(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let the process end before it writes to the store for the given time."""
    count = iter(range(1, 1000))

    def until(original: Callable[..., object]) -> Callable[..., object]:
        def write(*arguments: object, **named: object) -> object:
            if next(count) >= number:
                raise Killed
            return original(*arguments, **named)

        return write

    for name in WRITES:
        patch.setattr(MlflowClient, name, until(getattr(MlflowClient, name)))


def killed(patch: pytest.MonkeyPatch, number: int, action: Callable[[], object]) -> bool:
    with patch.context() as context:
        kill_before_write(context, number)
        try:
            action()
        except Killed:
            return True
    return False


Crash = tuple[int, str | None] | None
"""The number of entries in the audit log after a crash, and which version was live; None if there was no crash."""


def crashed_promotion(register: Register, patch: pytest.MonkeyPatch, number: int, force: str | None = None) -> Crash:
    """Let a promotion of a second version crash before its given write, and see to what comes after."""
    name = f"model{number}"
    decide(register(name))
    candidate = register(name)
    crashed = killed(patch, number, lambda: decide(candidate, passes=force is None, force=force))
    after = len(audit_log.read_entries(name)), registry.find_champion(name)
    promoted = after[0] == 2
    if audit_log.read_state(name).pending:
        assert "was interrupted" in promote.describe_pending(name)[0]
    promote.reconcile(name)
    assert promote.describe_pending(name) == []
    assert (
        registry.find_champion(name)
        == ("2" if promoted else "1")
        == history.champion_after(audit_log.read_entries(name))
    )
    found = registry.get_version(name, "2").tags["verdict"]
    assert found == ("forced" if force else "promoted") if promoted else found == "pending"
    assert (registry.find_alias(name, "challenger") is None) == promoted
    return after if crashed else None


@pytest.mark.parametrize(
    ("number", "after"),
    [(2, (1, "1")), (10, (2, "1")), (11, (2, "2"))],
    ids=["before the entry", "before the alias moves", "with the alias moved"],
)
def test_a_crash_before_a_write_leaves_what_the_next_command_repairs(
    register_version: Register, monkeypatch: pytest.MonkeyPatch, number: int, after: Crash
) -> None:
    assert crashed_promotion(register_version, monkeypatch, number) == after


@pytest.mark.slow
@pytest.mark.parametrize("force", [None, "needed"])
def test_a_crash_before_any_write_leaves_what_the_next_command_repairs(
    register_version: Register, monkeypatch: pytest.MonkeyPatch, force: str | None
) -> None:
    number = 1
    while crashed_promotion(register_version, monkeypatch, number, force):
        number += 1
    assert number > 8


@pytest.mark.slow
def test_a_crash_before_any_write_of_the_first_promotion_ever(
    register_version: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "PATIENCE", 0.5)
    for number in range(1, 40):
        name = f"model{number}"
        candidate = register_version(name)
        crashed = killed(monkeypatch, number, lambda: decide(candidate))  # noqa: B023
        if not audit_log.read_entries(name):
            decide(candidate)
        promote.reconcile(name)
        assert history_of(name) == [("promoted", "1", "1")]
        assert registry.list_aliases(name) == {"champion": "1"}
        if not crashed:
            break
    assert not crashed


def crashed_rollback(register: Register, patch: pytest.MonkeyPatch, number: int) -> Crash:
    """Let a rollback crash before its given write, and see that the next command finishes it."""
    name = f"model{number}"
    decide(register(name))
    decide(register(name))
    crashed = killed(patch, number, lambda: rollback_of(name, "it blurs", lambda _: WORKS))
    after = len(audit_log.read_entries(name)), registry.find_champion(name)
    promote.reconcile(name)
    assert registry.find_champion(name) == ("1" if after[0] == 3 else "2")
    return after if crashed else None


@pytest.mark.parametrize(
    ("number", "after"),
    [(1, (2, "2")), (7, (3, "2")), (8, (3, "1"))],
    ids=["before the entry", "before the alias moves", "with the alias moved"],
)
def test_a_crash_during_a_rollback_is_finished_by_the_next_command(
    register_version: Register, monkeypatch: pytest.MonkeyPatch, number: int, after: Crash
) -> None:
    assert crashed_rollback(register_version, monkeypatch, number) == after


@pytest.mark.slow
def test_a_crash_at_any_write_of_a_rollback_is_finished_by_the_next_command(
    register_version: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 1
    while crashed_rollback(register_version, monkeypatch, number):
        number += 1
    assert number > 8


RACER = """
import sys, time
from pathlib import Path
from dae import runtime
from dae.promotion import promote, registry
runtime.configure()
from dae.config.schema import GateConfig
from dae.promotion.schemas import Check, SmokeTestResult, GateResult
own, rounds, gate = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])

def make_evaluator(name, version):
    def mse(number):
        return float(registry.get_version(name, number).tags["best_val_mse"])
    def evaluate(champion, /, *, at_once):
        better = champion is None or mse(version) < mse(champion)
        check = Check(name="val_mse", value=1, limit=1, source="", passed=better, reason=f"met {champion}")
        return GateResult(promoted=better, checks=(check,), reasons=() if better else (check.reason,), champion=champion)
    return evaluate

for number in range(rounds):
    name = f"race{number}"
    candidate = registry.get_candidate(name, own)
    (gate / f"{number}-{own}").touch()
    while len(list(gate.glob(f"{number}-*"))) < 2:
        time.sleep(0.001)
    promote.decide_promotion(candidate, make_evaluator(name, own), GateConfig(), smoke_test=SmokeTestResult)
"""


@pytest.mark.slow
def test_two_processes_that_promote_at_once_on_a_server_end_with_the_better_champion(
    register_version: Register,
    mlflow_store: Path,
    unused_port: int,
    wait_for_http: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    rounds = 6
    for number in range(rounds):  # the better one is now the first, now the second
        for mse in (0.001, 0.002) if number % 2 else (0.002, 0.001):
            register_version(f"race{number}", mse)
    address = f"http://127.0.0.1:{unused_port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{mlflow_store}"]
    command += ["--host", "127.0.0.1", "--port", str(unused_port), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ) as server:
        try:
            wait_for_http(f"{address}/health")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            (tmp_path / "gate").mkdir()
            racer = [sys.executable, "-c", RACER]
            racers = [
                subprocess.Popen([*racer, own, str(rounds), str(tmp_path / "gate")], env=os.environ) for own in "12"
            ]
            assert [each.wait(timeout=300) for each in racers] == [0, 0]
            stories = []
            for number in range(rounds):
                name, better = f"race{number}", "1" if number % 2 else "2"
                worse = "2" if better == "1" else "1"
                assert registry.list_aliases(name) == {"champion": better}
                stories.append(history_of(name))
                assert stories[-1] in (
                    [("promoted", better, better), ("refused", worse, better)],
                    [("promoted", worse, worse), ("promoted", better, better)],
                )
                assert audit_log.read_state(name).pending == ()
        finally:
            server.terminate()
