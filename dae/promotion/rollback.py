"""Rollback: an earlier champion becomes the champion again, after it has passed a smoke test."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from dae import command_lines
from dae.promotion import audit_log, gate, history, promote, registry
from dae.promotion.history import AuditEntry
from dae.promotion.registry import RegistryError
from dae.promotion.schemas import Check, SmokeTestResult
from dae.tracking import provenance
from dae.tracking.runs import protect_run


def rollback(
    name: str, reason: str, run_smoke_test: Callable[[str], SmokeTestResult], to: str | None = None
) -> AuditEntry:
    """Make an earlier champion the champion again, after it has passed a smoke test.

    Parameters
    ----------
    name : str
        Of the registered model.
    reason : str
    run_smoke_test : callable
        Takes a version, and returns what it does in a clean process.
    to : str, optional
        A former champion; by default the one before the present champion.

    Returns
    -------
    AuditEntry

    Raises
    ------
    RegistryError
        If there is no such version, it was never the champion or is the champion now, it does not work, or another process
        appended to the audit log meanwhile.
    """
    entries = promote.reconcile(name)
    champion = history.champion_after(entries)
    target = _choose_target(name, entries, to)
    _protect_run_of(name, target)
    unrecorded = _require_working(name, target, champion, run_smoke_test(target))
    if unrecorded:  # old versions lack these records, and a rollback to one of them must be possible
        reason = f"{reason} (it works; no digest or outputs were recorded)"
    try:
        # The audit log was read before the smoke test, which takes a while: `append_entry` detects whether it has changed.
        entry = audit_log.append_entry(
            name,
            entries,
            event="rolled back",
            version=target,
            champion=target,
            against=champion,
            who=provenance.current_actor(),
            reason=reason,
        )
    except audit_log.Conflict:
        raise RegistryError(
            f"the audit log of {name} went on meanwhile, and nothing was changed: check it, and try again"
        ) from None
    promote.apply_pending(name, [entry])
    return entry


def _require_working(name: str, version: str, champion: str | None, result: SmokeTestResult) -> list[Check]:
    """Refuse a version that fails its smoke test; return the checks that could not be made for lack of a record."""
    checks = [gate.check_loads(result)]
    if result.error is None:
        checks += gate.check_unchanged(result)
    records = {"checksum": result.recorded_sha256, "outputs": result.difference}
    unrecorded = [check for check in checks if check.name in records and records[check.name] is None]
    failures = [check.reason for check in checks if not check.passed and check not in unrecorded]
    if failures:
        raise RegistryError(f"version {version} of {name} does not work, and {champion} stays: {'; '.join(failures)}")
    return unrecorded


def _choose_target(name: str, entries: tuple[AuditEntry, ...], to: str | None) -> str:
    champion, former = history.champion_after(entries), history.past_champions(entries)
    target = to or history.previous_champion(entries)
    if target is None:
        raise RegistryError(f"{name} has no champion before {'the present one' if champion else 'now'} to go back to")
    if target == champion:
        raise RegistryError(f"version {target} of {name} is the champion already")
    if target not in former:
        versions = ", ".join(former) or "none"
        arguments = f"promote {target}" + ("" if name == "dae" else f" --name {shlex.quote(name)}")
        raise RegistryError(
            f"version {target} of {name} was never the champion (those were: {versions}); "
            f"use {command_lines.dae_command(arguments)}"
        )
    return target


def _protect_run_of(name: str, version: str) -> None:
    """Protect the run of a version from ``dae gc`` during the smoke test."""
    if run_id := registry.get_version(name, version).run_id:  # a version can be registered without a run
        protect_run(run_id, 1)
