"""When a cron expression is due next, by the clocks of a time zone.

Hours that the clocks repeat or leave out are read as people mean them, and as BullMQ's ``cron-parser`` reads them:

- in an hour that is left out, what is due then is due as much later (02:30 becomes 03:30), once;
- in an hour that comes twice, what names its hours (``30 2 * * *``) is due in the first, and what does not
  (``*/15 * * * *``, ``0 */2 * * *``) in both.

``croniter`` reads the expression, and knows nothing of zones here: given one, it is an hour off beyond each change.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from corral.errors import PayloadInvalid

_DAY_MS = 86_400_000
#: ``5L``, the month's last Friday: ``croniter`` writes it ``L5``.
_LAST_OF_MONTH = re.compile(r"\b([0-7])L\b")


def next_cron_ms(cron: str, time_zone: str | None, after_ms: int) -> int:
    """When a cron expression is due next.

    Args:
        cron: Five fields, or six with seconds first, as BullMQ's ``cron-parser`` reads it.
        time_zone: IANA name; None is UTC.
        after_ms: Milliseconds since 1970; what is due at this very moment does not count.

    Raises:
        PayloadInvalid: Not such an expression, or not such a zone.
    """
    zone = _zone(time_zone)
    offset = _offset_ms(zone, after_ms)
    begin = after_ms
    repeats = _names_no_hours(cron)
    if not repeats:
        begin += _left_of_repeated_hours_ms(zone, after_ms)
    while True:
        wall = _next_on_the_wall_ms(cron, begin + offset)
        due = wall - offset
        change = _next_change_ms(zone, begin, offset, due)
        if change is None:
            return due
        later_by = _offset_ms(zone, change) - offset
        if later_by > 0 and wall < change + offset + later_by:
            return due  # the clocks leave this moment out
        # From the change on, the wall shows another time; one millisecond back, for what is due at the change itself.
        begin = change - 1 + (0 if repeats else max(0, -later_by))
        offset += later_by


def _zone(time_zone: str | None) -> tzinfo:
    try:
        return ZoneInfo(time_zone) if time_zone else UTC
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise PayloadInvalid(f"time_zone: expected an IANA name such as 'Europe/Berlin', got {time_zone!r}.") from error


def _names_no_hours(cron: str) -> bool:
    fields = cron.split()
    return fields[-4].startswith("*") if len(fields) >= 5 else cron.strip() == "@hourly"


def _next_on_the_wall_ms(cron: str, after_ms: int) -> int:
    """The next match on a clock that is never changed."""
    from croniter import croniter  # noqa: PLC0415 - for the few who use cron: it takes a tenth of a second
    from croniter.croniter import CroniterError  # noqa: PLC0415

    fields = cron.split()
    fields[-1:] = [_LAST_OF_MONTH.sub(r"L\1", field) for field in fields[-1:]]
    try:
        times = croniter(" ".join(fields), datetime.fromtimestamp(after_ms / 1000, tz=UTC), second_at_beginning=True)
        due: datetime = times.get_next(datetime)
    except (CroniterError, ValueError) as error:
        raise PayloadInvalid(
            f"cron: {cron!r} is no cron expression of five or six fields: {str(error).rstrip('.')}."
        ) from error
    return round(due.timestamp() * 1000)


def _offset_ms(zone: tzinfo, at_ms: int) -> int:
    """How much later than UTC the clocks of a zone are."""
    return (datetime.fromtimestamp(at_ms / 1000, tz=zone).utcoffset() or timedelta(0)) // timedelta(milliseconds=1)


def _next_change_ms(zone: tzinfo, begin_ms: int, offset_ms: int, until_ms: int) -> int | None:
    """The first moment in a span at which the clocks do not show ``offset_ms``; None when they always do."""
    last = begin_ms + 1
    if _offset_ms(zone, last) != offset_ms:
        return last
    while last < until_ms:
        ahead = min(last + _DAY_MS, until_ms)
        if _offset_ms(zone, ahead) != offset_ms:
            while ahead - last > 1:
                middle = (last + ahead) // 2
                if _offset_ms(zone, middle) == offset_ms:
                    last = middle
                else:
                    ahead = middle
            return ahead
        last = ahead
    return None


def _left_of_repeated_hours_ms(zone: tzinfo, at_ms: int) -> int:
    """How long the clocks will yet show what they have shown before; 0 when they don't."""
    before = _offset_ms(zone, at_ms - _DAY_MS)
    change = _next_change_ms(zone, at_ms - _DAY_MS, before, at_ms)
    if change is None:
        return 0
    return max(0, change + before - _offset_ms(zone, at_ms) - 1 - at_ms)
