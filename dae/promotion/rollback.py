"""Rollback: an earlier champion again, after it has shown that it loads and works."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from dae import command_lines
from dae.promotion import audit_log, gate, history, promote, registry
from dae.promotion.history import AuditEntry
from dae.promotion.registry import RegistryError
from dae.promotion.schemas import SmokeTestResult
from dae.tracking import provenance
from dae.tracking.runs import protect_run


def rollback(name: str, reason: str, trial: Callable[[str], SmokeTestResult], to: str | None = None) -> AuditEntry:
    """Make an earlier champion the champion again, after it has shown that it loads and works.

    Parameters
    ----------
    name : str
        Of the registered model.
    reason : str
    trial : callable
        Given a version, returns what it does in a clean process.
    to : str, optional
        A version that was live once; by default the one before the present one.

    Returns
    -------
    Entry
        Of the ledger.

    Raises
    ------
    RegistryError
        If there is no such version, it was never live or is now, it does not work, or the champion changed meanwhile.
    """
    entries = promote.reconcile(name)
    live = history.champion_after(entries)
    target = _target(name, entries, to)
    found = trial(target)
    made = [gate.check_loads(found), *gate.check_unchanged(found)] if found.error is None else [gate.check_loads(found)]
    unknown = [check.name for check in made if check.name in _unrecorded(found)]
    if failed := [check.reason for check in made if not check.passed and check.name not in unknown]:
        raise RegistryError(f"version {target} of {name} does not work, and {live} stays: {'; '.join(failed)}")
    if unknown:  # from before they were recorded: it works all the same, and going back must be possible
        reason = f"{reason} (it works; what it was when it was logged is not on record)"
    try:
        entry = audit_log.append_entry(
            name,
            entries,
            event="rolled back",
            version=target,
            champion=target,
            against=live,
            who=provenance.current_actor(),
            reason=reason,
        )
    except audit_log.Conflict:
        raise RegistryError(
            f"the ledger of {name} went on meanwhile, and nothing was changed: look, and try again"
        ) from None
    promote.apply_pending(name)
    return entry


def _unrecorded(trial: SmokeTestResult) -> set[str]:
    """Return the checks that need a record which was not made."""
    missing = {"checksum": trial.recorded_sha256, "outputs": trial.difference}
    return {name for name, record in missing.items() if record is None}


def _target(name: str, entries: tuple[AuditEntry, ...], to: str | None) -> str:
    live, known = history.champion_after(entries), history.past_champions(entries)
    target = to or history.previous_champion(entries)
    if target is None:
        raise RegistryError(f"{name} has no champion before {'the present one' if live else 'now'} to go back to")
    if target == live:
        raise RegistryError(f"version {target} of {name} is the champion already")
    if target not in known:
        were = ", ".join(known) or "none"
        instead = command_lines.dae_command(
            f"promote {target}" + ("" if name == "dae" else f" --name {shlex.quote(name)}")
        )
        raise RegistryError(f"version {target} of {name} was never the champion (those were: {were}); use {instead}")
    if run_id := registry.get_version(name, target).run_id:  # none for a version of a model that no run logged
        protect_run(run_id, 1)  # from dae gc, while it is tried
    return target
