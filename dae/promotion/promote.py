"""Promotion: a decision is written to the audit log first, and the aliases and tags then follow it.

There is no lock. A decision rests on the audit log as it was read. If another process has appended an entry meanwhile, the
audit log is read again and the decision is made again. So if two challengers are promoted at once, the second is compared with
the first. If a process dies after it wrote its entry, the alias lags behind the audit log until the next command moves it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from dae.config.schema import GateConfig
from dae.promotion import audit_log, gate, history, registry
from dae.promotion.audit_log import AuditLogState
from dae.promotion.history import AuditEntry
from dae.promotion.registry import CHALLENGER, CHAMPION, RegistryError
from dae.promotion.schemas import ApprovalAnswer, Candidate, Decision, DecisionEvent, GateResult, SmokeTestResult
from dae.tracking import provenance

MOVED = "moved by other means than dae, or by a promotion that was killed as it wrote"
MOMENT = 0.5
"""Seconds after which a difference between alias and audit log is no longer explained by a promotion in progress."""
FORCED_TAGS = ("forced_reason", "forced_by", "forced_at")


class Evaluator(Protocol):
    """The gate for one version: its result against a champion, which may have changed during the evaluation."""

    def __call__(self, champion: str | None, /, *, at_once: bool) -> GateResult:
        """Return the result of the gate."""


def decide_promotion(
    candidate: Candidate,
    evaluate: Evaluator,
    policy: GateConfig,
    *,
    smoke_test: Callable[[], SmokeTestResult],
    answer: ApprovalAnswer | None = None,
    val_mse: float | None = None,
) -> Decision:
    """Evaluate a version against the present champion, and make it the champion if the decision allows it.

    Parameters
    ----------
    candidate : Candidate
    evaluate : callable
        Takes the champion's version, or None, and whether that champion was promoted during the evaluation. Returns the result
        of the gate.
    policy : GateConfig
        Its switches: `dry_run`, `force` and `approval_hours`.
    smoke_test : callable
        Returns the result of the smoke test. It is called only if a promotion is forced.
    answer : ApprovalAnswer, optional
        Of the person who was asked to approve.
    val_mse : float, optional
        Stored in the audit log.

    Returns
    -------
    Decision

    Raises
    ------
    RegistryError
        If the version is the champion already.
    """
    name = candidate.name
    champions: list[str | None] = []
    while True:
        entries = reconcile(name, write=not policy.dry_run)
        champion = history.champion_after(entries)
        if champion == candidate.version:
            raise RegistryError(f"version {champion} of {name} is the champion already")
        champions.append(champion)
        result = evaluate(champion, at_once=champion != champions[0])
        decision = _decide(result, policy, smoke_test, answer)
        if policy.dry_run:
            return decision
        registry.set_version_tags(name, candidate.version, {"verdict_checks": _checks_json(result)})
        try:
            entry = _append_decision(candidate, decision, entries, val_mse)
        except audit_log.Conflict:
            continue
        apply_pending(name, [entry])
        return decision


def _append_decision(
    candidate: Candidate, decision: Decision, entries: Sequence[AuditEntry], val_mse: float | None
) -> AuditEntry:
    champion = history.champion_after(entries)
    return audit_log.append_entry(
        candidate.name,
        entries,
        event=decision.event,
        version=candidate.version,
        champion=candidate.version if decision.promoted else champion,
        against=champion,
        who=decision.who,
        reason=decision.reason,
        val_mse=val_mse,
        run_id=candidate.run_id,
    )


def tag_dry_run(candidate: Candidate, decision: Decision) -> None:
    """Write the decision of a dry run to the tags of a version that the same run registered."""
    message = f"would be {decision.event}: {decision.reason}"
    registry.set_version_tags(candidate.name, candidate.version, {"verdict": "dry run", "verdict_reasons": message})


def _decide(
    result: GateResult, policy: GateConfig, run_smoke_test: Callable[[], SmokeTestResult], answer: ApprovalAnswer | None
) -> Decision:
    decision = _decide_without_approval(result, policy, run_smoke_test)
    if policy.approval_hours is None or policy.dry_run or not decision.promoted:
        return decision
    if answer is None or (answer.event, answer.champion) != (decision.event, result.champion):
        return _refuse(
            decision,
            "the verdict or the champion changed since approval was requested, or it was not requested; promote it again",
        )
    if answer.approved:
        comment = "; ".join(filter(None, (decision.reason, f"approved by {answer.who}", answer.comment)))
        return decision.model_copy(update={"reason": comment})
    why = "nobody approved it in time" if answer.approved is None else f"not approved by {answer.who}"
    return _refuse(decision, f"{why}: {answer.comment}" if answer.comment else why)


def _decide_without_approval(
    result: GateResult, policy: GateConfig, run_smoke_test: Callable[[], SmokeTestResult]
) -> Decision:
    """Return the decision of the gate and of `force`, before a person's answer."""

    def make_decision(event: DecisionEvent, reason: str) -> Decision:
        return Decision(
            event=event, verdict=result, who=provenance.current_actor(), reason=reason, dry_run=policy.dry_run
        )

    if result.promoted:
        count = len(result.checks)
        return make_decision("promoted", f"{count} check{'s' * (count > 1)} passed; {_main_reasons(result)}")
    if policy.force is None:
        return make_decision("refused", "; ".join(result.reasons))
    if not (loads := gate.check_loads(run_smoke_test())).passed:
        return make_decision("refused", f"not even by force: {loads.reason}")
    return make_decision("forced", policy.force)


def _refuse(decision: Decision, reason: str) -> Decision:
    return decision.model_copy(update={"event": "refused", "reason": reason})


def _main_reasons(result: GateResult) -> str:
    """Return the reasons of the main checks of a promotion."""
    reasons = [check.reason for check in result.checks if check.name in ("val_mse", "vs_champion")]
    return "; ".join(reasons or [result.checks[0].reason])


def _checks_json(result: GateResult) -> str:
    return json.dumps([check.model_dump(mode="json") for check in result.checks])


def reconcile(name: str, *, write: bool = True) -> tuple[AuditEntry, ...]:
    """Finish interrupted changes, note an alias that was moved by other means, and return the audit log's entries.

    With `write` False nothing is written, and the returned entries are those that a writing call would end with.
    """
    while True:
        state = audit_log.read_state(name)
        if write and state.pending:
            apply_pending(name, state.pending)
            continue  # another process may have appended an entry meanwhile
        champion = registry.find_champion(name)
        if champion == history.champion_after(state.entries) or state.pending:
            return state.entries
        if not _difference_lasts(name, state, champion):  # another process is writing
            continue
        fields = _found_fields(state.entries, champion)
        if not write:
            return (*state.entries, audit_log.draft_entry(state.entries, **fields))
        with suppress(audit_log.Conflict):
            audit_log.append_entry(name, state.entries, **fields)


def _found_fields(entries: Sequence[AuditEntry], champion: str | None) -> dict[str, Any]:
    """Return the fields of the entry that notes an alias moved by other means."""
    return {
        "event": "found",
        "version": champion,
        "champion": champion,
        "against": history.champion_after(entries),
        "who": "unknown",
        "reason": f"the alias had been {MOVED}" if entries else "live before the audit log began",
    }


def _difference_lasts(name: str, state: AuditLogState, champion: str | None) -> bool:
    """Tell whether alias and audit log still differ in the same way a moment later.

    Both are read again: a process that promotes at the same time writes its entry first and moves the alias then.
    """
    time.sleep(MOMENT)
    return registry.find_champion(name) == champion and audit_log.read_state(name) == state


def apply_pending(name: str, pending: Sequence[AuditEntry]) -> None:
    """Set the aliases and tags of entries that are written to the audit log but may not be applied yet."""
    for entry in pending:
        _tag_version(name, entry)
        _move_alias(name, entry)


def _move_alias(name: str, entry: AuditEntry) -> None:
    """Move the alias to the champion of the audit log and mark the entry as applied, unless another process has done it."""
    # Read here and not earlier: another process may have applied this entry and a later one meanwhile. Then the alias must
    # not be moved back.
    state = audit_log.read_state(name)
    if entry not in state.pending:
        return
    while True:
        champion = history.champion_after(state.entries)
        if champion is None or registry.version_exists(name, champion):  # an alias cannot name a deleted version
            registry.set_alias(name, CHAMPION, champion)
        # Read again: if an entry was appended before the alias was moved, the alias may now name the wrong version.
        state = audit_log.read_state(name)
        if history.champion_after(state.entries) == champion:
            break
    assert state.run_id is not None
    audit_log.mark_applied(state.run_id, entry)


def _tag_version(name: str, entry: AuditEntry) -> None:
    """Write an entry to the tags of its version and its run, and remove the challenger alias from the version."""
    if entry.version is None or entry.event == "found":
        return
    version = registry.find_version(name, entry.version)
    if version is None:
        return
    when = entry.at.isoformat(timespec="seconds")
    event = "rolled back to" if entry.event == "rolled back" else entry.event
    tags: dict[str, str | None] = {
        "verdict": event,
        "verdict_reasons": entry.reason,
        "decided_at": when,
        "decided_by": entry.who,
    }
    if entry.event == "forced":
        tags |= dict(zip(FORCED_TAGS, (entry.reason, entry.who, when), strict=True))
    elif entry.event == "promoted":  # the gate now passes it: only the audit log still records that it was forced once
        tags |= {key: None for key in FORCED_TAGS if key in version.tags}
    heading = event.upper() if event == "forced" else event.capitalize()
    description = f"{heading} by {entry.who} on {when}: {entry.reason}"
    registry.set_version_tags(name, entry.version, tags, description)
    if entry.run_id:
        registry.tag_run(entry.run_id, {"verdict": entry.event, "model_version": entry.version})
    registry.remove_alias(name, CHALLENGER, entry.version)


def describe_pending(name: str) -> list[str]:
    """Return, in words, what the next command that writes will finish or note. Nothing is written."""
    state = audit_log.read_state(name)
    if state.pending:
        return [
            f"{name} version {entry.version} was {entry.event} in the audit log (entry {entry.number}), but not all of its "
            "aliases and tags are set: the process was interrupted, or is still writing"
            for entry in state.pending
        ]
    champion, expected = registry.find_champion(name), history.champion_after(state.entries)
    if champion == expected:
        return []
    cause = f"it was {MOVED}" if state.entries else "the audit log has no entry yet"
    return [f"alias {CHAMPION} of {name} names version {champion}, the audit log version {expected}: {cause}"]
