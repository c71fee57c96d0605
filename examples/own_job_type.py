"""A job type of one's own: declared with a decorator, added, followed, and waited for.

    python examples/own_job_type.py

Without ``REDIS_URL`` it starts an embedded server. ``corral worker --app examples.own_job_type:corral`` runs its worker
as a process of its own instead.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

from pydantic import BaseModel

from corral import Corral, Job, JobPriority, Unrecoverable

corral = Corral()


class Text(BaseModel):
    """What a word-count job is given."""

    text: str


class Words(BaseModel):
    """What it gives back."""

    words: int
    most_common: str


@corral.handler("word-count", concurrency=10, timeout=timedelta(minutes=1))
async def word_count(job: Job[Text]) -> Words:
    """Count words. Safe to repeat: it writes nothing."""
    await job.log(f"attempt {job.attempt} on {len(job.data.text)} characters")
    counted = Counter(job.data.text.lower().split())
    if not counted:
        raise Unrecoverable("there is not a word in it", reason="empty")
    await job.progress(50)
    return Words(words=counted.total(), most_common=counted.most_common(1)[0][0])


async def main() -> None:
    async with corral:
        workers = await corral.start_workers(["word-count"])
        job = await corral.add_job("word-count", {"text": "to be or not to be"}, priority=JobPriority.HIGH)
        result: Words = await corral.wait_for_result(job, timeout=timedelta(seconds=30))
        print(f"{result.words} words, most of all {result.most_common!r}")

        status = await corral.get_job_status("word-count", job.id)
        logs = await corral.get_job_logs("word-count", job.id)
        print(f"{status.state} at {status.progress:.0f} %: {logs.lines[0]}")
        await workers.stop()


if __name__ == "__main__":
    asyncio.run(main())
