"""One stretch of time."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Span:
    """A half-open stretch of minutes: start belongs to it, end does not."""

    start: int
    end: int

    def __post_init__(self):
        if self.end <= self.start:
            raise ValueError(f"a span must end after it starts, got {self.start} to {self.end}")

    @property
    def minutes(self):
        """How long the span is."""
        return self.end - self.start

    def contains(self, minute):
        """Whether the minute lies in the span."""
        return self.start <= minute < self.end

    def overlaps(self, other):
        """Whether the two spans share at least one minute."""
        return self.start < other.end and other.start < self.end

    def shift(self, minutes):
        """The same span, later by so many minutes (earlier when negative)."""
        return Span(self.start + minutes, self.end + minutes)
