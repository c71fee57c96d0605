"""What a job's handler does is said by its data, the same in Node (``driver.mjs``)."""

from __future__ import annotations

import asyncio
from typing import Any

from corral import Corral, Job
from corral.errors import Unrecoverable


async def act(job: Job[dict[str, Any]]) -> dict[str, Any]:
    """Do what the data say."""
    data = dict(job.data)
    what = data.pop("act", "echo")
    match what:
        case "echo":
            return {"by": "corral", **data}
        case "fail":
            raise RuntimeError(data.get("message", "made to fail"))
        case "fail-once":
            if job.attempt == 1:
                raise RuntimeError("made to fail once")
            return {"by": "corral", "attempt": job.attempt}
        case "unrecoverable":
            raise Unrecoverable(data.get("message", "made to fail for good"))
        case "report":
            await job.progress(data["progress"])
            await job.log(*data["lines"])
            return {"by": "corral"}
        case "sleep":
            await asyncio.sleep(data["ms"] / 1000)
            return {"by": "corral"}
        case "children":
            return {
                "by": "corral",
                "children": await job.children_results(),
                "ignored": await job.children_failures(),
            }
        case _:
            raise Unrecoverable(f"no such act: {what}")


def declare(corral: Corral, *names: str) -> None:
    """Give each queue that handler, unlimited."""
    for name in names:
        corral.handler(name)(act)
