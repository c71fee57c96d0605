"""Charts as SVG, drawn here: no script, no style attribute, readable without colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

if TYPE_CHECKING:
    from corral.queue.history import Stretch

_WIDTH: Final = 600
_HEIGHT: Final = 102
_BASE: Final = 100
_TOP: Final = 8
_SVG: Final = Markup(
    '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}" preserveAspectRatio="none">{}</svg>'
)
_BAR: Final = Markup('<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"><title>{}</title></rect>')
_LINE: Final = Markup('<polyline class="{}" points="{}" fill="none"/>')
_AXIS: Final = Markup('<line class="axis" x1="0" x2="{}" y1="{}" y2="{}"/>')


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of some durations, in seconds."""

    median: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles | None:
        """None of nothing."""
        if not values:
            return None
        if len(values) == 1:
            return cls(values[0], values[0])
        cuts = quantiles(values, n=20, method="inclusive")
        return cls(cuts[9], cuts[18])


def throughput_chart(stretches: Sequence[Stretch], label: str) -> Markup:
    """Jobs that ended, completed below and failed above, one bar for each stretch."""
    most = max((one.completed + one.failed for one in stretches), default=0) or 1
    step = _WIDTH / max(1, len(stretches))
    bars = []
    for number, one in enumerate(stretches):
        title = f"{one.start:%H:%M}: {one.completed} completed, {one.failed} failed"
        x, width = number * step + step * 0.1, step * 0.8
        done = (_BASE - _TOP) * one.completed / most
        bad = (_BASE - _TOP) * one.failed / most
        if one.completed:
            bars.append(_BAR.format("done", x, _BASE - done, width, done, title))
        if one.failed:
            bars.append(_BAR.format("bad", x, _BASE - done - bad, width, bad, title))
    return _svg(label, [_AXIS.format(_WIDTH, _BASE, _BASE), *bars])


def latency_chart(stretches: Sequence[Stretch], label: str) -> Markup:
    """Median and 95th percentile of wait and run together, on a logarithmic scale from 1 ms."""
    points: dict[str, list[str]] = {"median": [], "p95": []}
    totals = [Percentiles.of(_totals(one)) for one in stretches]
    most = slowest(stretches) or 1.0
    scale = math.log10(max(most, 0.01) / 0.001)
    step = _WIDTH / max(1, len(stretches))
    for number, found in enumerate(totals):
        if found is not None:
            for name, value in (("median", found.median), ("p95", found.p95)):
                height = (_BASE - _TOP) * math.log10(max(value, 0.001) / 0.001) / scale
                points[name].append(f"{(number + 0.5) * step:.1f},{_BASE - height:.1f}")
    # A stretch alone has no line, so it gets a short one of its own.
    lines = [
        _LINE.format(name, " ".join(places if len(places) > 1 else _dash(places[0])))
        for name, places in points.items()
        if places
    ]
    return _svg(label, [_AXIS.format(_WIDTH, _BASE, _BASE), *lines])


def _dash(place: str) -> list[str]:
    x, _, y = place.partition(",")
    return [f"{float(x) - 4:.1f},{y}", f"{float(x) + 4:.1f},{y}"]


def failure_chart(stretches: Sequence[Stretch], label: str) -> Markup:
    """The share of the jobs that ended as failed, one bar for each stretch, from 0 to 100 %."""
    step = _WIDTH / max(1, len(stretches))
    bars = []
    for number, one in enumerate(stretches):
        ended = one.completed + one.failed
        if one.failed:
            height = (_BASE - _TOP) * one.failed / ended
            title = f"{one.start:%H:%M}: {one.failed} of {ended} failed"
            bars.append(_BAR.format("bad", number * step + step * 0.1, _BASE - height, step * 0.8, height, title))
    return _svg(label, [_AXIS.format(_WIDTH, _BASE, _BASE), *bars])


def busiest(stretches: Sequence[Stretch]) -> int:
    """Most jobs that ended in one stretch: the height of `throughput_chart`."""
    return max((one.completed + one.failed for one in stretches), default=0)


def slowest(stretches: Sequence[Stretch]) -> float | None:
    """Seconds at the top of `latency_chart`; None when nothing is drawn."""
    found = [Percentiles.of(_totals(one)) for one in stretches]
    return max((one.p95 for one in found if one), default=None)


def _totals(one: Stretch) -> list[float]:
    return [wait + run for wait, run in zip(one.wait_s, one.run_s, strict=True)]


def sparkline(counts: Sequence[int], label: str) -> Markup:
    """A small throughput chart for a table's cell."""
    most = max(counts, default=0) or 1
    step = _WIDTH / max(1, len(counts) - 1)
    places = " ".join(
        f"{number * step:.1f},{_BASE - (_BASE - _TOP) * count / most:.1f}" for number, count in enumerate(counts)
    )
    return _svg(label, [_LINE.format("median", places)], css="spark")


def _svg(label: str, parts: Sequence[Markup], css: str = "chart") -> Markup:
    drawn = _SVG.format(_WIDTH, _HEIGHT, label, Markup("").join(parts))
    return drawn if css == "chart" else Markup(str(drawn).replace('class="chart"', f'class="{css}"', 1))  # noqa: S704 - our own markup
