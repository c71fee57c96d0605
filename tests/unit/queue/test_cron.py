"""Cron expressions by the clocks of a zone, above all where the clocks are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corral.errors import PayloadInvalid
from corral.queue.cron import next_cron_ms

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


def ms(text: str, zone: str | None = None) -> int:
    """An instant: ``2026-10-25T02:30+01:00``, or a wall's time in a zone where that is unambiguous."""
    at = datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=ZoneInfo(zone or "UTC"))).timestamp() * 1000)


def shown(at_ms: int, zone: str) -> str:
    return datetime.fromtimestamp(at_ms / 1000, tz=ZoneInfo(zone)).isoformat(timespec="minutes")


@pytest.mark.parametrize(
    ("cron", "zone", "after", "due"),
    [
        # The same wall time on both sides of a change, however far away it is.
        ("30 7 * * *", BERLIN, "2026-03-28T12:00+01:00", "2026-03-29T07:30+02:00"),
        ("30 7 * * *", BERLIN, "2026-10-24T12:00+02:00", "2026-10-25T07:30+01:00"),
        ("30 2 * * *", NEW_YORK, "2026-10-31T12:00-04:00", "2026-11-01T02:30-05:00"),
        ("59 23 31 12 *", NEW_YORK, "2026-04-05T00:00-04:00", "2026-12-31T23:59-05:00"),
        ("0 0 29 2 *", BERLIN, "2026-10-04T03:00+02:00", "2028-02-29T00:00+01:00"),
        # Left out: as much later, once.
        ("30 2 * * *", BERLIN, "2026-03-28T12:00+01:00", "2026-03-29T03:30+02:00"),
        ("30 2 * * *", BERLIN, "2026-03-29T03:30+02:00", "2026-03-30T02:30+02:00"),
        ("0 2 * * *", BERLIN, "2026-03-28T12:00+01:00", "2026-03-29T03:00+02:00"),
        ("0 0 * * *", "America/Santiago", "2026-09-05T12:00-04:00", "2026-09-06T01:00-03:00"),
        ("*/30 * * * *", BERLIN, "2026-03-29T01:30+01:00", "2026-03-29T03:00+02:00"),
        ("*/30 * * * *", BERLIN, "2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"),
        # Twice: what names its hour is due in the first only, what does not in both.
        ("30 2 * * *", BERLIN, "2026-10-24T12:00+02:00", "2026-10-25T02:30+02:00"),
        ("30 2 * * *", BERLIN, "2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"),
        ("30 2 * * *", BERLIN, "2026-10-25T02:10+01:00", "2026-10-26T02:30+01:00"),
        ("*/30 * * * *", BERLIN, "2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00"),
        ("*/30 * * * *", BERLIN, "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"),
        ("0 3 * * *", BERLIN, "2026-10-24T12:00+02:00", "2026-10-25T03:00+01:00"),
        # Half an hour's change.
        ("45 1 * * *", LORD_HOWE, "2026-04-04T12:00+11:00", "2026-04-05T01:45+11:00"),
        ("45 1 * * *", LORD_HOWE, "2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"),
        ("0 2 * * *", LORD_HOWE, "2026-04-04T12:00+11:00", "2026-04-05T02:00+10:30"),
        # The last Friday, as cron-parser writes it and as croniter does.
        ("0 0 * * 5L", BERLIN, "2026-03-08T12:00+01:00", "2026-03-27T00:00+01:00"),
        ("0 0 * * L5", BERLIN, "2026-03-08T12:00+01:00", "2026-03-27T00:00+01:00"),
    ],
)
def test_due_by_the_clocks_of_the_zone(cron: str, zone: str, after: str, due: str) -> None:
    assert shown(next_cron_ms(cron, zone, ms(after)), zone) == due


def test_without_a_zone_it_is_utc_and_seconds_come_first() -> None:
    assert next_cron_ms("*/10 * * * * *", None, ms("2026-03-29T00:59:59")) == ms("2026-03-29T01:00:00")
    assert next_cron_ms("0 12 * * *", None, ms("2026-03-29T12:00")) == ms("2026-03-30T12:00")


@given(
    zone=st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, "America/Santiago", "Asia/Kolkata"]),
    minute=st.integers(0, 59),
    after=st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
)
@example(zone=BERLIN, minute=30, after=datetime(2026, 10, 25, 0, 45, tzinfo=UTC))
def test_every_hour_is_every_hour(zone: str, minute: int, after: datetime) -> None:
    """The next instant at which the clocks show the minute: found the slow way."""
    start = after.replace(second=0, microsecond=0)
    instants = (start + timedelta(minutes=n) for n in range(1, 122))
    expected = next(at for at in instants if at.astimezone(ZoneInfo(zone)).minute == minute)
    after_ms = round(start.timestamp() * 1000)
    found = datetime.fromtimestamp(next_cron_ms(f"{minute} * * * *", zone, after_ms) / 1000, tz=UTC)
    if expected.astimezone(ZoneInfo(zone)).dst() == start.astimezone(ZoneInfo(zone)).dst():
        assert found == expected
    else:  # in a gap that is no whole hour, what it leaves out comes as much later
        assert start < found <= expected


@given(
    zone=st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, "America/Santiago", "Asia/Kolkata"]),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    begin=st.datetimes(datetime(2026, 1, 1), datetime(2027, 6, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
@example(zone=BERLIN, hour=2, minute=30, begin=datetime(2026, 3, 27, tzinfo=UTC))
@example(zone=BERLIN, hour=2, minute=30, begin=datetime(2026, 10, 23, tzinfo=UTC))
def test_every_day_is_once_on_each_day(zone: str, hour: int, minute: int, begin: datetime) -> None:
    at_ms = next_cron_ms(f"{minute} {hour} * * *", zone, round(begin.timestamp() * 1000))
    days = []
    for _ in range(5):
        at_ms = next_cron_ms(f"{minute} {hour} * * *", zone, at_ms)
        days.append(datetime.fromtimestamp(at_ms / 1000, tz=ZoneInfo(zone)).date())
    assert days == [days[0] + timedelta(days=n) for n in range(5)]


@pytest.mark.parametrize("cron", ["", "* * *", "61 * * * *", "a b c d e", "* * * * * * * *", "0 0 30 2 *"])
def test_what_is_no_expression_is_told(cron: str) -> None:
    with pytest.raises(PayloadInvalid, match="cron"):
        next_cron_ms(cron, BERLIN, ms("2026-03-29T12:00"))


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../etc/passwd", "/etc/localtime"])
def test_what_is_no_zone_is_told(zone: str) -> None:
    with pytest.raises(PayloadInvalid, match="Europe/Berlin"):
        next_cron_ms("0 0 * * *", zone, ms("2026-03-29T12:00"))
