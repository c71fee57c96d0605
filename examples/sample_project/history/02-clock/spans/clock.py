"""Spans as people write them: ``9:00-10:30``."""

from spans.span import Span


def parse_time(text):
    """Minutes since midnight of a clock time such as ``9:05``."""
    hours, separator, minutes = text.strip().partition(":")
    if not separator or not hours.isdigit() or not minutes.isdigit() or len(minutes) != 2:
        raise ValueError(f"expected a time such as 9:05, got {text!r}")
    if int(hours) > 24 or int(minutes) > 59:
        raise ValueError(f"there is no such time of day: {text!r}")
    return int(hours) * 60 + int(minutes)


def parse_span(text):
    """The span that ``9:00-10:30`` describes."""
    start, separator, end = text.partition("-")
    if not separator:
        raise ValueError(f"expected a span such as 9:00-10:30, got {text!r}")
    return Span(parse_time(start), parse_time(end))


def format_time(minute):
    """The clock time of a minute since midnight."""
    return f"{minute // 60}:{minute % 60:02d}"


def format_span(span):
    """The span as ``9:00-10:30``."""
    return f"{format_time(span.start)}-{format_time(span.end)}"
