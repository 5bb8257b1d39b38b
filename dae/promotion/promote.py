"""Promotion: a decision is written to the ledger first, and aliases and tags then follow it.

Nothing is locked. Whoever decides says which state of the ledger the decision rests on, and looks again if the ledger has gone
on meanwhile; so of two challengers at once the second meets the first. A process that dies after its entry was written leaves
an alias that lags behind the ledger: whoever comes next sets it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from dae.config.schema import GateConfig
from dae.promotion import audit_log, gate, history, registry
from dae.promotion.history import AuditEntry
from dae.promotion.registry import CHALLENGER, CHAMPION, RegistryError
from dae.promotion.schemas import ApprovalAnswer, Candidate, Decision, DecisionEvent, GateResult, SmokeTestResult
from dae.tracking import provenance

MOVED = "moved by other means than dae, or by a promotion that was killed as it wrote"
MOMENT = 0.5
"""So many seconds alias and ledger must differ before that is put down to other means than a promotion under way."""


class Evaluator(Protocol):
    """The gate for one version: its verdict against a champion, which may have come while the version was judged."""

    def __call__(self, champion: str | None, /, *, at_once: bool) -> GateResult:
        """Return the verdict."""


def decide_promotion(
    candidate: Candidate,
    judge: Evaluator,
    policy: GateConfig,
    *,
    trial: Callable[[], SmokeTestResult],
    answer: ApprovalAnswer | None = None,
    val_mse: float | None = None,
) -> Decision:
    """Judge a version against the champion of this moment, and make it the champion if it may be.

    Parameters
    ----------
    candidate : Candidate
    judge : callable
        Given the version of the champion, or None, and whether that one came while this one was judged, returns the verdict.
    policy : GateConfig
        Its switches: `dry_run`, `force` and `approval_hours`.
    trial : callable
        Returns what the version did in a clean process; asked where a promotion is forced.
    answer : Answer, optional
        Of the person who was asked to approve.
    val_mse : float, optional
        Kept in the ledger.

    Returns
    -------
    Decision

    Raises
    ------
    RegistryError
        If the version is the champion already.
    """
    name = candidate.name
    met: list[str | None] = []
    while True:
        entries = reconcile(name, write=not policy.dry_run)
        live = history.champion_after(entries)
        if live == candidate.version:
            raise RegistryError(f"version {live} of {name} is the champion already")
        met.append(live)
        verdict = judge(live, at_once=live != met[0])
        decision = _decision(verdict, policy, trial, answer)
        if policy.dry_run:
            return decision
        registry.set_version_tags(name, candidate.version, {"verdict_checks": _checks(verdict)})
        try:
            audit_log.append_entry(
                name,
                entries,
                event=decision.event,
                version=candidate.version,
                champion=candidate.version if decision.promoted else live,
                against=live,
                who=decision.who,
                reason=decision.reason,
                val_mse=val_mse,
                run_id=candidate.run_id,
            )
        except audit_log.Conflict:
            continue
        apply_pending(name)
        return decision


def tag_dry_run(candidate: Candidate, decision: Decision) -> None:
    """Say of a new version, which a dry run made and nobody judged yet, what would become of it."""
    said = f"would be {decision.event}: {decision.reason}"
    registry.set_version_tags(candidate.name, candidate.version, {"verdict": "dry run", "verdict_reasons": said})


def _decision(
    verdict: GateResult, policy: GateConfig, trial: Callable[[], SmokeTestResult], answer: ApprovalAnswer | None
) -> Decision:
    decision = _without_asking(verdict, policy, trial)
    if policy.approval_hours is None or policy.dry_run or not decision.promoted:
        return decision
    if answer is None or (answer.event, answer.champion) != (decision.event, verdict.champion):
        return _refused(
            decision, "the verdict or the champion changed after a person was, or was not, asked; promote it anew"
        )
    if answer.approved:
        comment = "; ".join(filter(None, (decision.reason, f"approved by {answer.who}", answer.comment)))
        return decision.model_copy(update={"reason": comment})
    why = "nobody approved it in time" if answer.approved is None else f"not approved by {answer.who}"
    return _refused(decision, f"{why}: {answer.comment}" if answer.comment else why)


def _without_asking(verdict: GateResult, policy: GateConfig, trial: Callable[[], SmokeTestResult]) -> Decision:
    """Return what the gate decides, and force where it is used."""

    def decided(event: DecisionEvent, reason: str) -> Decision:
        return Decision(
            event=event, verdict=verdict, who=provenance.current_actor(), reason=reason, dry_run=policy.dry_run
        )

    if verdict.promoted:
        count = len(verdict.checks)
        return decided("promoted", f"{count} check{'s' * (count > 1)} passed; {_grounds(verdict)}")
    if policy.force is None:
        return decided("refused", "; ".join(verdict.reasons))
    if not (usable := gate.check_loads(trial())).passed:
        return decided("refused", f"not even by force: {usable.reason}")
    return decided("forced", policy.force)


def _refused(decision: Decision, reason: str) -> Decision:
    return decision.model_copy(update={"event": "refused", "reason": reason})


def _grounds(verdict: GateResult) -> str:
    """Return what a promotion rests on, in brief."""
    told = [check.reason for check in verdict.checks if check.name in ("val_mse", "vs_champion")]
    return "; ".join(told or [verdict.checks[0].reason])


def _checks(verdict: GateResult) -> str:
    return json.dumps([check.model_dump(mode="json") for check in verdict.checks])


def reconcile(name: str, *, write: bool = True) -> tuple[AuditEntry, ...]:
    """Return the ledger, after finishing what was interrupted and noting where the alias was moved by other means.

    With `write` False nothing is written, and what would be is taken as done.
    """
    while True:
        if write:
            apply_pending(name)
        found, live = audit_log.read_state(name), registry.find_champion(name)
        entries = found.entries
        if live == history.champion_after(entries) or (found.unsettled and not write):
            return entries
        if found.unsettled or not _lasts(name, found, live):  # another process is at it
            continue
        reason = "live before the ledger began" if not entries else f"the alias had been {MOVED}"
        fields = {"event": "found", "version": live, "champion": live, "against": history.champion_after(entries)}
        if not write:
            return (*entries, audit_log.draft_entry(entries, who="unknown", reason=reason, **fields))
        with suppress(audit_log.Conflict):
            audit_log.append_entry(name, entries, who="unknown", reason=reason, **fields)


def _lasts(name: str, found: audit_log.AuditLogState, live: str | None) -> bool:
    """Tell whether alias and ledger still differ as they did, a moment later."""
    time.sleep(MOMENT)
    return registry.find_champion(name) == live and audit_log.read_state(name) == found


def apply_pending(name: str) -> list[AuditEntry]:
    """Set the aliases and tags that the ledger asks for and that may not be set; return the entries they belong to."""
    todo = list(audit_log.read_state(name).unsettled)
    for entry in todo:
        _describe(name, entry)
        _follow(name, entry)
        audit_log.mark_applied(name, entry)
    return todo


def _follow(name: str, entry: AuditEntry) -> None:
    """Let the alias follow the ledger, unless another process has seen to that and the ledger went on."""
    found = audit_log.read_state(name)
    if entry not in found.unsettled:
        return
    while True:
        live = history.champion_after(found.entries)
        if live is None or registry.version_exists(name, live):  # a version deleted by hand cannot be pointed to
            registry.set_alias(name, CHAMPION, live)
        found = audit_log.read_state(name)
        if history.champion_after(found.entries) == live:
            return


def _describe(name: str, entry: AuditEntry) -> None:
    """Write an entry's outcome to its version and its run, and end its time as the challenger."""
    if entry.version is None or entry.event == "found" or not registry.version_exists(name, entry.version):
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
        tags |= {"forced_reason": entry.reason, "forced_by": entry.who, "forced_at": when}
    elif entry.event == "promoted":  # the gate lets it pass now: force is a thing of the past, which the ledger keeps
        before = registry.get_version(name, entry.version).tags
        tags |= {key: None for key in ("forced_reason", "forced_by", "forced_at") if key in before}
    told = event.upper() if event == "forced" else event.capitalize()
    description = f"{told} by {entry.who} on {when}: {entry.reason}"
    registry.set_version_tags(name, entry.version, tags, description)
    if entry.run_id:
        registry.tag_run(entry.run_id, {"verdict": entry.event, "model_version": entry.version})
    registry.remove_alias(name, CHALLENGER, entry.version)


def describe_pending(name: str) -> list[str]:
    """Return, in words, what the next command that writes will finish or note; nothing is written."""
    found = [
        f"{name} version {entry.version} was {entry.event} in the ledger (entry {entry.number}), and its aliases and tags "
        "are not all set: the process was interrupted, or is at it"
        for entry in audit_log.read_state(name).unsettled
    ]
    entries, live = audit_log.read_entries(name), registry.find_champion(name)
    if not found and live != history.champion_after(entries):
        found.append(
            f"alias {CHAMPION} of {name} names version {live}, the ledger version {history.champion_after(entries)}: "
            + ("the ledger has not begun" if not entries else f"it was {MOVED}")
        )
    return found
