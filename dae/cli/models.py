"""``dae models``: what is live, why, since when, and what was."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dae import command_lines
from dae.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dae.promotion.history import AuditEntry, LivePeriod

app = typer.Typer(
    help="Versions of a registered model with their verdicts and aliases; their history; what was live when."
)
AsJson = Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, name: options.Name = options.MODEL_NAME, as_json: AsJson = False) -> None:
    """List the versions, the newest first."""
    if context.invoked_subcommand is not None:
        return
    with options.reported():
        from dae.promotion import promote, tables

        found = tables.read_versions(name)
        notes = promote.describe_pending(name)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo(f"No versions of {name} yet. Make one with: {command_lines.dae_command('train')}")
        return
    _show(tables.VERSIONS_HEADER, tables.version_rows(found))
    for note in notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)


@app.command()
def history(context: typer.Context, name: options.Name = options.MODEL_NAME, as_json: AsJson = False) -> None:
    """Show the ledger: every promotion, refusal, force and rollback, the latest last."""
    name, as_json = _inherited(context, name, as_json)
    with options.reported():
        from dae.promotion import audit_log, tables

        entries = audit_log.read_entries(name)
    if as_json:
        typer.echo(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=2))
        return
    if not entries:
        typer.echo(f"The ledger of {name} is empty: nothing was promoted or refused yet.")
        return
    _show(tables.HISTORY_HEADER, tables.history_rows(entries))


@app.command()
def live(
    context: typer.Context,
    name: options.Name = options.MODEL_NAME,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="A day, 2026-11-01, or a moment, 2026-11-01T12:30, in local time; by default now.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which version is live, or was on a given day, since when and why."""
    name, as_json = _inherited(context, name, as_json)
    with options.reported():
        from dae.promotion import history as history_module
        from dae.promotion import promote

        start, end = _window(at)
        entries: Sequence[AuditEntry] = promote.reconcile(name, write=False)
        if at is None:  # what was found just now counts as well
            start, end = _window(at)
        spans = history_module.live_between(entries, start, end)
    if as_json:
        typer.echo(json.dumps([_span(entries, span) for span in spans], indent=2))
    for span in () if as_json else spans:
        typer.echo(_sentence(name, entries, span))
    if not spans:
        if not as_json:
            typer.echo(_nobody(name, entries, at, end))
        raise typer.Exit(options.ERROR)


def _inherited(context: typer.Context, name: str, as_json: bool) -> tuple[str, bool]:
    """Return --name and --json, which may stand before the subcommand or after it."""
    assert context.parent is not None
    given = context.get_parameter_source("name")
    own = given is not None and given.name != "DEFAULT"
    return name if own else str(context.parent.params["name"]), as_json or bool(context.parent.params["as_json"])


def _nobody(name: str, entries: Sequence[AuditEntry], at: str | None, end: datetime) -> str:
    if at is None:
        return f"No version of {name} is live."
    if entries and entries[0].event == "found" and end < entries[0].at:
        began = f"{entries[0].at.astimezone():%Y-%m-%d %H:%M:%S}"
        return f"Not known: the ledger of {name} begins at {began}, when version {entries[0].version} was live already."
    return f"No version of {name} was live on {at}."


def _window(at: str | None) -> tuple[datetime, datetime]:
    """Return the first and the last moment asked about."""
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


def _span(entries: Sequence[AuditEntry], span: LivePeriod) -> dict[str, Any]:
    from dae.promotion import history as history_module

    forced = history_module.find_forced(entries, span.version)
    return {
        "version": span.version,
        "since": span.start.isoformat(),
        "until": span.end and span.end.isoformat(),
        **span.entry.model_dump(mode="json", include={"event", "who", "reason", "run_id", "val_mse"}),
        "forced": forced and {"who": forced.who, "at": forced.at.isoformat(), "reason": forced.reason},
    }


def _sentence(name: str, entries: Sequence[AuditEntry], span: LivePeriod) -> str:
    from dae.promotion import history as history_module
    from dae.promotion import tables

    until = f" until {tables.local(span.end)}" if span.end else ""
    event = span.entry.event.upper() if span.entry.event == "forced" else span.entry.event
    why = f": {span.entry.reason}" if span.entry.reason else ""
    tense = "is live since" if span.end is None else "was live from"
    forced = history_module.find_forced(entries, span.version)
    note = f"; it was FORCED by {forced.who}: {forced.reason}" if forced and forced != span.entry else ""
    when = f"{tense} {tables.local(span.start)}{until}"
    return f"{name} version {span.version} {when}; {event} by {span.entry.who}{why}{note}"


def _show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for title in header:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    options.console().print(table)
