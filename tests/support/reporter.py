"""A reporter that keeps a running job's news, and jobs that use it."""

from __future__ import annotations

from typing import Any, TypeVar

from corral.queue.job import Job, Progress

P = TypeVar("P")


class KeptNews:
    """Keeps progress and log in lists."""

    def __init__(self) -> None:
        self.progressed: list[Progress] = []
        self.logged: list[str] = []

    async def progress(self, value: Progress) -> None:
        self.progressed.append(value)

    async def log(self, lines: list[str]) -> None:
        self.logged += lines

    async def children_results(self) -> dict[str, Any]:
        return {}

    async def children_failures(self) -> dict[str, str]:
        return {}


def job_of(data: P, *, news: KeptNews | None = None) -> Job[P]:
    return Job(id="1", job_type="pr-creation", data=data, _reporter=news or KeptNews())
