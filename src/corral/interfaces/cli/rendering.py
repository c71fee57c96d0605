"""How jobs, queues and projects look on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from corral.interfaces.cli.output import as_json, foreign, without_controls
from corral.jobs.test_execution.report import CaseOutcome, TestReport
from corral.queue.job import JobState
from corral.queue.retry import failed_attempt
from corral.queue.status import JobStatus, QueueStats

STATE_STYLES: Mapping[str, str] = {
    JobState.COMPLETED: "green",
    JobState.FAILED: "red",
    JobState.ACTIVE: "cyan",
    JobState.DELAYED: "yellow",
}
_CASES_SHOWN = 20


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, "default"))


def job_panel(status: JobStatus) -> RenderableType:
    """One job, whole."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    rows: list[tuple[str, RenderableType]] = [
        ("state", state_text(status.state)),
        ("progress", f"{status.progress:.0f} %{_stage(status)}"),
        (
            "attempts",
            f"{status.attempts} of {status.max_attempts}" + (f", {status.crashes} crashes" if status.crashes else ""),
        ),
        ("priority", str(status.priority)),
        ("user", foreign(status.user_id or "-")),
        ("created", moment(status.created_at)),
        ("started", moment(status.started_at)),
        ("finished", moment(status.finished_at)),
    ]
    if status.worker:
        rows.append(("worker", foreign(status.worker)))
    if status.error:
        rows.append(("error", Text(without_controls(status.error), style="red")))
    for place, trace in enumerate(status.stacktrace, start=1):
        one = failed_attempt(trace)
        when = f"{moment(one.at)}  " if one.at else ""
        told = Text(f"failed {when}{without_controls(one.summary)}", style="red")
        rows.append((f"attempt {one.number or place}", told))
    for name, value in rows:
        facts.add_row(name, value)
    parts: list[RenderableType] = [facts, Text("data", style="dim"), json_block(status.data)]
    if status.state is JobState.COMPLETED:
        parts += [Text("result", style="dim"), result_block(status.result)]
    return Panel(Group(*parts), title=f"{foreign(status.job_type)} {foreign(status.id)}", title_align="left")


def _stage(status: JobStatus) -> str:
    stage = (status.progress_detail or {}).get("stage")
    return f" ({foreign(str(stage))})" if stage else ""


def moment(instant: datetime | None) -> str:
    """An instant in local time, with how long ago it was."""
    if instant is None:
        return "-"
    seconds = (datetime.now(UTC) - instant).total_seconds()
    return f"{instant.astimezone():%Y-%m-%d %H:%M:%S} ({age(seconds)})"


def age(seconds: float) -> str:
    """``3 s ago``, ``in 2 min``."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if abs(seconds) >= size or unit == "s":
            number = f"{abs(seconds) / size:.0f} {unit}"
            return f"{number} ago" if seconds >= 0 else f"in {number}"
    raise AssertionError  # the last unit always answers


def json_block(value: Any) -> RenderableType:
    """A value as highlighted JSON."""
    return _highlighted(without_controls(json.dumps(as_json(value), indent=2, ensure_ascii=False)), "json")


def result_block(result: Any) -> RenderableType:
    """A result as what it is: a test report as a table, everything else as JSON."""
    return test_report(result) if isinstance(result, TestReport) else json_block(result)


def test_report(report: TestReport) -> RenderableType:
    """A test report: counts, and the cases, those that failed first."""
    verdict = Text("passed" if report.passed else "failed", style="bold green" if report.passed else "bold red")
    failed = report.failed + report.errors
    counts = (
        f" · {report.succeeded} passed, {failed} failed, {report.skipped} skipped"
        f" · {report.seconds:.1f} s · {report.runner}"
    )
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(width=7)
    table.add_column(overflow="fold")
    table.add_column(justify="right", style="dim")
    bad_first = sorted(report.cases, key=lambda case: case.outcome in {CaseOutcome.PASSED, CaseOutcome.SKIPPED})
    for case in bad_first[:_CASES_SHOWN]:
        style = {"passed": "green", "skipped": "yellow"}.get(case.outcome, "red")
        name = Text(without_controls(f"{case.file}::{case.name}" if case.file else case.name))
        if case.message:
            name.append("\n" + without_controls(case.message.splitlines()[0]), style="red")
        table.add_row(Text(case.outcome, style=style), name, f"{case.seconds:.2f} s")
    if len(bad_first) > _CASES_SHOWN:
        table.add_row("", Text(f"… and {len(bad_first) - _CASES_SHOWN} more", style="dim"), "")
    parts: list[RenderableType] = [Text.assemble(verdict, counts), table]
    if not report.cases and report.output_tail:
        parts.append(Text(without_controls(report.output_tail), style="dim"))
    return Group(*parts)


def diff_block(diff: str) -> RenderableType:
    """A unified diff, coloured."""
    return _highlighted(without_controls(diff).rstrip("\n"), "diff")


def _highlighted(text: str, language: str) -> RenderableType:
    from rich.syntax import Syntax  # noqa: PLC0415 - its highlighter's tables are for the few commands that show code

    return Syntax(text, language, background_color="default", word_wrap=True)


def stats_table(rows: Iterable[QueueStats]) -> RenderableType:
    """Queues and their counts."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("queue")
    for name in ("waiting", "active", "completed", "failed", "delayed", "total"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        notes = ["paused"] if row.paused else []
        if row.waiting_children:
            notes.append(f"{row.waiting_children} waiting for children")
        table.add_row(
            escape(row.job_type),
            *(str(count) for count in (row.waiting, row.active, row.completed)),
            Text(str(row.failed), style="red" if row.failed else "default"),
            str(row.delayed),
            str(row.total),
            Text(", ".join(notes), style="yellow"),
        )
    return table


def plain_table(headings: Sequence[str], rows: Iterable[Sequence[RenderableType]]) -> RenderableType:
    """A table without lines."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
