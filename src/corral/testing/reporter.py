"""Call a handler directly and see what it reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from corral.queue.job import Job, Progress

P = TypeVar("P")


@dataclass
class RecordingReporter:
    """Keeps what a handler reports about its job.

    ``fail_with`` makes every report raise, for example ``LeaseLost``: a handler must not swallow it.
    """

    #: Every progress, in order.
    progress_values: list[Progress] = field(default_factory=list)
    #: Every log line, in order.
    log_lines: list[str] = field(default_factory=list)
    #: What ``job.children_results()`` answers.
    results_of_children: dict[str, Any] = field(default_factory=dict)
    #: What ``job.children_failures()`` answers.
    failures_of_children: dict[str, str] = field(default_factory=dict)
    #: Raised by every report when set.
    fail_with: BaseException | None = None

    @property
    def last_percent(self) -> float | None:
        """The last progress as a number; None when there was none."""
        if not self.progress_values:
            return None
        last = self.progress_values[-1]
        return float(last["percent"] if isinstance(last, Mapping) else last)

    @property
    def stages(self) -> list[str]:
        """The ``stage`` of every progress object that names one, in order."""
        return [str(v["stage"]) for v in self.progress_values if isinstance(v, Mapping) and "stage" in v]

    async def progress(self, value: Progress) -> None:
        """Keep a progress."""
        self._fail()
        self.progress_values.append(dict(value) if isinstance(value, Mapping) else value)

    async def log(self, lines: list[str]) -> None:
        """Keep log lines."""
        self._fail()
        self.log_lines.extend(lines)

    async def children_results(self) -> dict[str, Any]:
        """What the test has put into ``results_of_children``."""
        self._fail()
        return dict(self.results_of_children)

    async def children_failures(self) -> dict[str, str]:
        """What the test has put into ``failures_of_children``."""
        self._fail()
        return dict(self.failures_of_children)

    def _fail(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with


def job_for(
    data: P,
    *,
    job_type: str = "test",
    id: str = "1",  # noqa: A002 - the job's own field name
    attempt: int = 1,
    max_attempts: int = 1,
    crashes: int = 0,
    starts: int = 1,
    reported: Progress | None = None,
    user_id: str | None = None,
    reporter: RecordingReporter | None = None,
) -> Job[P]:
    """A job to call a handler with; no Redis is needed.

    Args:
        data: The payload, as the handler expects it.
        job_type: The job type's name.
        id: The job's id.
        attempt: Which attempt this is, from 1.
        max_attempts: How many it gets.
        crashes: How many workers died while they held it.
        starts: How often it has been started, this time included.
        reported: The progress that it had when it was started.
        user_id: Whose job it is.
        reporter: Where its news go; a new one is made when none is given, which nobody can then look at.
    """
    return Job(
        id=id,
        job_type=job_type,
        data=data,
        attempt=attempt,
        max_attempts=max_attempts,
        crashes=crashes,
        starts=starts,
        reported=reported,
        user_id=user_id,
        _reporter=reporter or RecordingReporter(),
    )
