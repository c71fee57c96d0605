"""Following one job until it ends: its progress and its log, as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from corral.client import Corral
from corral.errors import JobFailed, ResultTimedOut
from corral.interfaces.cli.output import ExitCode, Output, foreign
from corral.queue.job import JobState
from corral.queue.status import JobStatus

_GLANCE = timedelta(milliseconds=500)
"""How often a running job is looked at; its end is seen at once."""
_LOG_PAGE = 1000
ENDED = frozenset({JobState.COMPLETED, JobState.FAILED})


@dataclass(frozen=True, slots=True)
class Update:
    """What is new about the job."""

    status: JobStatus
    #: Log lines that were added since the last update.
    lines: tuple[str, ...] = ()


async def follow(
    corral: Corral, job_type: str, job_id: str, *, timeout: timedelta | None = None
) -> AsyncGenerator[Update, None]:
    """Yield an update whenever something changed, the last one when the job has ended.

    Raises:
        JobNotFound: There is no such job.
        ResultTimedOut: It did not end in time.
    """
    deadline = None if timeout is None else monotonic() + timeout.total_seconds()
    seen = 0
    last: JobStatus | None = None
    while True:
        # The state first: a line that was written before the end is then in the log that is read after it.
        status = await corral.get_job_status(job_type, job_id)
        lines: list[str] = []
        while True:
            page = await corral.get_job_logs(job_type, job_id, offset=seen, limit=_LOG_PAGE)
            lines += page.lines
            seen += len(page.lines)
            if len(page.lines) < _LOG_PAGE:
                break
        if lines or last is None or _changed(last, status):
            yield Update(status, tuple(lines))
        last = status
        if status.state in ENDED:
            return
        if deadline is not None and monotonic() >= deadline:
            raise ResultTimedOut(f"job {job_id!r} of {job_type!r} is still {status.state} after {timeout}")
        try:
            await corral.wait_for_result((job_type, job_id), timeout=_GLANCE)
        except (ResultTimedOut, JobFailed):
            continue


def _changed(old: JobStatus, new: JobStatus) -> bool:
    return (old.state, old.progress, old.progress_detail, old.attempts) != (
        new.state,
        new.progress,
        new.progress_detail,
        new.attempts,
    )


async def show_following(
    corral: Corral, output: Output, job_type: str, job_id: str, *, timeout: timedelta | None = None
) -> JobStatus:
    """Follow a job on the terminal: a progress bar below its log, plain lines where there is no terminal.

    Returns:
        The job as it ended.
    """
    show = _json_lines(output) if output.json else _plain_lines(output.err)
    live: Live | None = None
    if not output.json and output.err.is_terminal:
        show, live = _bar(output.err)
        live.start()
    try:
        async with aclosing(follow(corral, job_type, job_id, timeout=timeout)) as updates:
            async for update in updates:
                show(update)
                status = update.status
    finally:
        if live is not None:
            live.stop()
    return status


def ending_code(status: JobStatus) -> ExitCode:
    """The exit code of a command that waited for this job."""
    return ExitCode.OK if status.state is JobState.COMPLETED else ExitCode.FAILED


def _json_lines(output: Output) -> Callable[[Update], None]:
    def show(update: Update) -> None:
        output.show({"status": update.status, "lines": update.lines})

    return show


def _plain_lines(console: Console) -> Callable[[Update], None]:
    def show(update: Update) -> None:
        for line in update.lines:
            console.print(foreign(line))
        stage = foreign(stage_of(update.status))
        console.print(f"[dim]{update.status.state} {update.status.progress:.0f} % {stage}[/]")

    return show


def _bar(console: Console) -> tuple[Callable[[Update], None], Live]:
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
    )
    task = progress.add_task("", total=100)
    live = Live(progress, console=console, transient=True)

    def show(update: Update) -> None:
        for line in update.lines:
            live.console.print(foreign(line))
        what = " ".join(part for part in (str(update.status.state), stage_of(update.status)) if part)
        progress.update(task, completed=update.status.progress, description=foreign(what))

    return show, live


def stage_of(status: JobStatus) -> str:
    """The name of what the handler is at."""
    stage = (status.progress_detail or {}).get("stage", "")
    return stage if isinstance(stage, str) else ""
