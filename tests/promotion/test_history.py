from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dae.promotion import history
from dae.promotion.history import AuditEntry, Event

START = datetime(2026, 11, 1, tzinfo=UTC)


def ledger(*events: tuple[Event, str | None, str | None]) -> list[AuditEntry]:
    """Return a ledger of (event, version, champion after it), an entry an hour."""
    return [
        AuditEntry(
            number=number,
            id=str(number),
            at=START + timedelta(hours=number),
            event=event,
            version=version,
            champion=champion,
            who="someone",
        )
        for number, (event, version, champion) in enumerate(events, start=1)
    ]


STORY = ledger(
    ("refused", "1", None),
    ("promoted", "2", "2"),
    ("refused", "3", "2"),
    ("forced", "4", "4"),
    ("promoted", "5", "5"),
    ("rolled back", "4", "4"),
    ("found", None, None),
    ("promoted", "6", "6"),
)


def hours(number: float) -> datetime:
    return START + timedelta(hours=number)


def live(start: float, end: float) -> list[str]:
    return [span.version for span in history.live_between(STORY, hours(start), hours(end))]


def test_who_was_live_when() -> None:
    found = [(span.version, span.start, span.end) for span in history.live_periods(STORY)]
    assert found == [
        ("2", hours(2), hours(4)),
        ("4", hours(4), hours(5)),
        ("5", hours(5), hours(6)),
        ("4", hours(6), hours(7)),
        ("6", hours(8), None),
    ]
    assert history.champion_after(STORY) == "6"
    assert history.live_periods([]) == []
    assert history.champion_after([]) is None


def test_what_was_live_at_a_moment_and_on_a_day() -> None:
    assert live(1, 1) == []
    assert live(2, 2) == live(3.5, 3.5) == ["2"]
    assert live(4, 4) == ["4"]  # the moment of a promotion belongs to the new champion
    assert live(7.5, 7.5) == []
    assert live(100, 100) == ["6"]
    assert live(0, 24) == ["2", "4", "5", "4", "6"]
    assert live(4.5, 5.5) == ["4", "5"]


def test_rollbacks_walk_back_and_not_forth_again() -> None:
    story: list[tuple[Event, str | None, str | None]] = [("promoted", str(n), str(n)) for n in (1, 2, 3)]
    assert history.previous_champion(ledger(*story)) == "2"
    story += [("rolled back", "2", "2")]
    assert history.previous_champion(ledger(*story)) == "1"
    story += [("rolled back", "1", "1")]
    assert history.previous_champion(ledger(*story)) is None
    story += [("promoted", "3", "3")]
    assert history.previous_champion(ledger(*story)) == "1"


def test_a_rollback_to_one_that_was_left_out_puts_it_on_top() -> None:
    story = ledger(("promoted", "1", "1"), ("promoted", "2", "2"), ("rolled back", "1", "1"), ("rolled back", "2", "2"))
    assert history.champion_line(story) == ["1", "2"]


def test_after_the_alias_was_removed_the_last_champion_is_the_previous_one() -> None:
    story = ledger(("promoted", "1", "1"), ("promoted", "2", "2"), ("found", None, None))
    assert history.previous_champion(story) == "2"
    assert history.previous_champion(ledger(("found", None, None))) is None


def test_a_version_is_forced_until_the_gate_lets_it_pass() -> None:
    assert history.find_forced(STORY, "4") == STORY[3]
    assert history.find_forced(STORY, "2") is None
    again = ledger(("forced", "1", "1"), ("refused", "1", "1"), ("rolled back", "1", "1"))
    assert history.find_forced(again, "1") == again[0]
    assert history.find_forced([*again, *ledger(("promoted", "1", "1"))], "1") is None


def test_every_champion_there_ever_was_the_latest_first() -> None:
    assert history.past_champions(STORY) == ["6", "4", "5", "2"]
