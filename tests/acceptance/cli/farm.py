"""An application with job types of its own, as ``corral --app tests.acceptance.cli.farm:corral`` names it."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from corral import Corral, Job, Unrecoverable


class Greeting(BaseModel):
    name: str


class Greeted(BaseModel):
    text: str


corral = Corral()


@corral.handler("greet")
async def greet(job: Job[Greeting]) -> Greeted:
    await job.log(f"greeting {job.data.name}")
    await job.progress({"percent": 50, "stage": "half way"})
    if job.data.name == "nobody":
        raise Unrecoverable("there is nobody to greet")
    return Greeted(text=f"hello {job.data.name}")


@corral.handler("linger")
async def linger(job: Job[dict[str, object]]) -> None:
    await job.log("lingering")
    await asyncio.Event().wait()
