"""Tables of medians and ratios, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.queue.measure import Figures, median, percentile

_ONE = "corral"
Rounds = list[dict[str, Figures]]


def _names(rounds: Rounds) -> list[str]:
    return list(rounds[0])


def _columns(rounds: Rounds, prefix: str) -> list[str]:
    found = {
        key
        for figures in rounds
        for one in figures.values()
        for key in (*one.values, *one.notes)
        if key.startswith(prefix) and not key.endswith("µs")
    }
    order = {"one": 1, "concurrent": 2, "bulk": 3}
    words = {key: key.removeprefix(prefix).strip() for key in found}
    return sorted(found, key=lambda key: order.get(words[key]) or int(words[key].strip("%") or 0))


def _values(rounds: Rounds, name: str, key: str) -> list[float]:
    return [figures[name].values[key] for figures in rounds if key in figures[name].values]


def _note(rounds: Rounds, name: str, key: str) -> str | None:
    return next((figures[name].notes[key] for figures in rounds if key in figures[name].notes), None)


def _ratio(rounds: Rounds, name: str, key: str) -> float | None:
    """Median over the rounds of Corral's value over the peer's, both of the same round."""
    pairs = [
        figures[_ONE].values[key] / figures[name].values[key]
        for figures in rounds
        if _ONE in figures and key in figures[_ONE].values and key in figures[name].values
    ]
    return median(pairs) if pairs else None


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _rates(rounds: Rounds, title: str, prefix: str) -> tuple[str, list[str]]:
    columns = _columns(rounds, prefix)
    if not columns:
        return "", []
    footnotes: list[str] = []

    def cell(name: str, key: str) -> str:
        values = _values(rounds, name, key)
        note = _note(rounds, name, key)
        if note:
            footnotes.append(f"{name}, {key}: {note}")
        if not values:
            return "failed" if note and note.startswith("failed") else "–"
        text = f"{median(values):,.0f}" + ("*" if note else "")
        ratio = _ratio(rounds, name, key)
        return f"{text} ({ratio:.2f}×)" if ratio is not None and name != _ONE else text

    rows = [[name, *(cell(name, key) for key in columns)] for name in _names(rounds)]
    return f"### {title}\n\n" + _table(["", *(c.removeprefix(prefix).strip() or c for c in columns)], rows), footnotes


def _costs(rounds: Rounds, title: str, prefix: str, kind: str) -> str:
    names = _names(rounds)
    columns = [k for k in _columns(rounds, prefix) if any(_values(rounds, name, f"{k} {kind} µs") for name in names)]
    if not columns:
        return ""

    def cell(name: str, key: str) -> str:
        values = _values(rounds, name, f"{key} {kind} µs")
        return f"{median(values):,.0f}" if values else "–"

    rows = [[name, *(cell(name, key) for key in columns)] for name in _names(rounds)]
    return f"### {title}\n\n" + _table(["", *(c.removeprefix(prefix).strip() or c for c in columns)], rows)


def _lateness(rounds: Rounds) -> str:
    rows = []
    for name in _names(rounds):
        row = [name]
        for key in ("pickup", "delayed"):
            samples = [late * 1e3 for figures in rounds for late in figures[name].samples.get(key, ())]
            row.extend(f"{percentile(samples, share):,.2f}" if samples else "–" for share in (0.5, 0.99))
        if any(cell != "–" for cell in row[1:]):
            rows.append(row)
    if not rows:
        return ""
    return "### Lateness of an idle worker, ms\n\n" + _table(
        ["", "pickup p50", "pickup p99", "delayed p50", "delayed p99"], rows
    )


def _depth(rounds: Rounds) -> str:
    depths = sorted(_columns(rounds, "depth "), key=lambda key: int(key.split()[1]))
    rows = []
    for key in depths:
        waiting = key.split()[1]
        asked = (f"asked {waiting} {question}" for question in ("stats", "status", "pause"))
        figures = [(key, "{:,.0f}"), (f"{key} server µs", "{:,.0f}"), *((name, "{:.2f}") for name in asked)]
        values = [(_values(rounds, _ONE, name), form) for name, form in figures]
        rows.append([f"{int(waiting):,}", *(form.format(median(v)) if v else "–" for v, form in values)])
    if not rows:
        return ""
    head = [
        "waiting behind",
        "drain, jobs/s",
        "server, µs a job",
        "stats, ms",
        "one job's status, ms",
        "pause and resume, ms",
    ]
    return "### Corral with many waiting, 50 at once\n\n" + _table(head, rows)


def _memory(rounds: Rounds) -> str:
    values = {k: v for k, v in rounds[0].get(_ONE, Figures()).values.items() if k.startswith("memory ")}
    if not values:
        return ""
    way = ", ".join(f"{key.removeprefix('memory ')} {value:.1f}" for key, value in values.items())
    return f"### Resident memory of Corral's worker on the way, MiB\n\n{way}\n"


def render(about: dict[str, Any], rounds: Rounds) -> str:
    """The whole report: medians over the rounds, in brackets how many times the peer's figure Corral's is."""
    plan = about["plan"]
    node = f", Node {about['node']}" if about["node"] else ""
    head = (
        f"{about['server']}; Python {about['python']}{node}; {about['cores']} cores, load at start "
        f"{about['load at start']}; {len(rounds)} rounds, {plan['jobs']:,} jobs a drain after {plan['warm_up']:,} to "
        "warm up. Medians; in brackets Corral's figure as a multiple of the peer's (median of the rounds' ratios).\n"
    )
    enqueue, enqueue_notes = _rates(rounds, "Enqueue, jobs/s", "enqueue ")
    drain, drain_notes = _rates(
        rounds, "Drain of no-op jobs by one worker process, jobs/s, at a concurrency of", "drain "
    )
    parts = [
        head,
        enqueue,
        _costs(rounds, "Producer's processor time, µs a job", "enqueue ", "client"),
        drain,
        _costs(rounds, "Worker's processor time, µs a job, at a concurrency of", "drain ", "worker"),
        _costs(rounds, "Server's processor time, µs a job, at a concurrency of", "drain ", "server"),
        _lateness(rounds),
        _depth(rounds),
        _memory(rounds),
    ]
    notes = list(dict.fromkeys(enqueue_notes + drain_notes))
    timed = [
        f"{n}, {k}: {_note(rounds, n, k)}" for n in _names(rounds) for k in ("timed", "delayed") if _note(rounds, n, k)
    ]
    if notes or timed:
        parts.append("Notes (* above):\n\n" + "\n".join(f"- {note}" for note in notes + timed) + "\n")
    return "\n".join(part for part in parts if part)
