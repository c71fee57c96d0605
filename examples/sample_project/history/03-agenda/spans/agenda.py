"""Questions about several spans at once."""

from spans.span import Span


def total_minutes(spans):
    """The sum of all lengths; a minute in two spans counts twice."""
    return sum(span.minutes for span in spans)


def conflicts(spans):
    """All pairs of spans that overlap, each pair once, in order."""
    ordered = sorted(spans)
    return [
        (first, second)
        for index, first in enumerate(ordered)
        for second in ordered[index + 1 :]
        if first.overlaps(second)
    ]


def outer(spans):
    """The shortest span that holds all the others."""
    spans = list(spans)
    if not spans:
        raise ValueError("no spans, so nothing holds them all")
    return Span(min(span.start for span in spans), max(span.end for span in spans))
