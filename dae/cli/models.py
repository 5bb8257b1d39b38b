"""``dae models``: the versions of a model, their audit log, and the live version."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dae import command_lines
from dae.cli import options
from dae.cli.help import Command, Group, epilog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dae.promotion.history import AuditEntry, LivePeriod

app = typer.Typer(
    help="List the versions of a registered model, its audit log, or the live version.",
    cls=Group,
    epilog=epilog("dae models", "dae models --name dae-photographs", "dae models live --at 2026-11-01"),
)
AsJson = Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, name: options.Name = options.MODEL_NAME, as_json: AsJson = False) -> None:
    """List the versions, the newest first."""
    if context.invoked_subcommand is not None:
        return
    with options.reported():
        from dae.promotion.promote import describe_pending
        from dae.promotion.tables import VERSIONS_HEADER, read_versions, version_rows

        versions = read_versions(name)
        notes = describe_pending(name)
    if as_json:
        typer.echo(json.dumps(versions, indent=2))
        return
    if not versions:
        typer.echo(f"No versions of {name} yet. Make one with: {command_lines.dae_command('train')}")
        return
    options.print_table(VERSIONS_HEADER, version_rows(versions))
    for note in notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)


@app.command(cls=Command, epilog=epilog("dae models history", "dae models history --name dae-photographs --json"))
def history(context: typer.Context, name: options.Name = options.MODEL_NAME, as_json: AsJson = False) -> None:
    """Print the audit log: every promotion, refusal, forced promotion and rollback, the newest last."""
    name, as_json = _inherited(context, name, as_json)
    with options.reported():
        from dae.promotion.audit_log import read_entries
        from dae.promotion.tables import HISTORY_HEADER, history_rows

        entries = read_entries(name)
    if as_json:
        typer.echo(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=2))
        return
    if not entries:
        typer.echo(f"The audit log of {name} is empty: no version was promoted or refused yet.")
        return
    options.print_table(HISTORY_HEADER, history_rows(entries))


@app.command(cls=Command, epilog=epilog("dae models live", "dae models live --at 2026-11-01T12:30"))
def live(
    context: typer.Context,
    name: options.Name = options.MODEL_NAME,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="A day such as 2026-11-01, or a local time such as 2026-11-01T12:30.",
            show_default="now",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print which version is live, or was live on a given day, since when and why."""
    name, as_json = _inherited(context, name, as_json)
    with options.reported():
        from dae.promotion.history import live_between
        from dae.promotion.promote import reconcile

        start, end = _window(at)
        entries: Sequence[AuditEntry] = reconcile(name, write=False)
        if at is None:  # reconciling may add an entry of this very moment
            start, end = _window(at)
        periods = live_between(entries, start, end)
    if as_json:
        typer.echo(json.dumps([_period_record(entries, period) for period in periods], indent=2))
    for period in () if as_json else periods:
        typer.echo(_sentence(name, entries, period))
    if not periods:
        if not as_json:
            typer.echo(_nothing_live(name, entries, at, end))
        raise typer.Exit(options.ERROR)


def _inherited(context: typer.Context, name: str, as_json: bool) -> tuple[str, bool]:
    """Return --name and --json, which can be typed before the subcommand or after it."""
    assert context.parent is not None
    source = context.get_parameter_source("name")
    own = source is not None and source.name != "DEFAULT"
    return name if own else str(context.parent.params["name"]), as_json or bool(context.parent.params["as_json"])


def _nothing_live(name: str, entries: Sequence[AuditEntry], at: str | None, end: datetime) -> str:
    if at is None:
        return f"No version of {name} is live."
    if entries and entries[0].event == "found" and end < entries[0].at:
        start = f"{entries[0].at.astimezone():%Y-%m-%d %H:%M:%S}"
        return (
            f"Unknown: the audit log of {name} begins at {start}, when version {entries[0].version} was already live."
        )
    return f"No version of {name} was live on {at}."


def _window(at: str | None) -> tuple[datetime, datetime]:
    """Return the first and the last moment of a day, or one moment twice."""
    from dae.config.schema import ConfigError

    if at is None:
        now = datetime.now().astimezone()
        return now, now
    try:
        start, end = _day(date.fromisoformat(at))
    except (ValueError, OverflowError):
        try:
            moment = datetime.fromisoformat(at)
            start = end = moment if moment.tzinfo else moment.astimezone()
        except (ValueError, OverflowError):
            raise ConfigError(f"--at must be a day or a moment such as 2026-11-01T12:30, received {at}") from None
    if start > (now := datetime.now().astimezone()):
        raise ConfigError(f"--at must not lie in the future, received {at}")
    return start, min(end, now)


def _day(day: date) -> tuple[datetime, datetime]:
    return datetime.combine(day, time.min).astimezone(), datetime.combine(day, time.max).astimezone()


def _period_record(entries: Sequence[AuditEntry], period: LivePeriod) -> dict[str, Any]:
    from dae.promotion.history import find_forced

    forced = find_forced(entries, period.version)
    return {
        "version": period.version,
        "since": period.start.isoformat(),
        "until": period.end and period.end.isoformat(),
        **period.entry.model_dump(mode="json", include={"event", "who", "reason", "run_id", "val_mse"}),
        "forced": forced and {"who": forced.who, "at": forced.at.isoformat(), "reason": forced.reason},
    }


def _sentence(name: str, entries: Sequence[AuditEntry], period: LivePeriod) -> str:
    from dae.promotion.history import find_forced
    from dae.promotion.tables import local

    until = f" until {local(period.end)}" if period.end else ""
    event = period.entry.event.upper() if period.entry.event == "forced" else period.entry.event
    why = f": {period.entry.reason}" if period.entry.reason else ""
    tense = "is live since" if period.end is None else "was live from"
    forced = find_forced(entries, period.version)
    note = f"; it was FORCED by {forced.who}: {forced.reason}" if forced and forced != period.entry else ""
    when = f"{tense} {local(period.start)}{until}"
    return f"{name} version {period.version} {when}; {event} by {period.entry.who}{why}{note}"
