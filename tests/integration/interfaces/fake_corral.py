"""interim: the client surface over the real queue, until the client is there."""

from __future__ import annotations
import asyncio
from dataclasses import dataclass
from typing import Any
from corral.errors import JobFailed, ResultTimedOut
from corral.queue.definition import JobTypeSpec
from corral.queue.job import JobState
from corral.queue.options import JobOptions
from corral.queue.queue import Queue, options_from
from corral.queue import scheduler as sch
from corral.settings import Settings
from corral.wire.address import parse_redis_url
from corral.wire.connection import open_client
from corral.wire.connector import connector
from corral.wire.pipe import Pipe


@dataclass
class Ev:
    id: str
    name: str
    job_id: str | None
    fields: dict


class FakeCorral:
    def __init__(self, url, *, prefix="bull", settings=None):
        self.settings = settings or Settings()
        self._url, self._prefix = url, prefix
        self.job_types: dict[str, JobTypeSpec] = {}
        self._pipe = None
        self.redis: Any = None

    async def connect(self):
        if self._pipe:
            return
        self.redis = open_client(self._url)
        self._pipe = Pipe(connector(parse_redis_url(self._url), self._prefix))
        await self._pipe.open()

    async def close(self):
        if self._pipe:
            await self._pipe.close()
            await self.redis.aclose()
            self._pipe = None

    async def __aenter__(self):
        await self.connect()
        return self

    async def __aexit__(self, *_):
        await self.close()

    def declare(self, name, **kw):
        self.job_types[name] = JobTypeSpec(name=name, **kw)

    def q(self, t) -> Queue:
        return Queue(self.job_types[t], self._pipe, self._prefix)

    async def add_job(self, t, data, **o):
        return await self.q(t).add(data, options_from(self.job_types[t].defaults, o))

    async def add_jobs(self, t, items, **o):
        return await self.q(t).add_many(items, options_from(self.job_types[t].defaults, o))

    async def add_flow(self, flow):
        from corral.queue.flow import add_flow
        return await add_flow(flow, self.q)
    async def get_job_status(self, t, i):
        return await self.q(t).status(i)

    async def list_jobs(self, t, states=None, **kw):
        return await self.q(t).list_jobs(states, **kw)

    async def get_job_logs(self, t, i, **kw):
        return await self.q(t).logs(i, **kw)

    async def wait_for_result(self, job, *, timeout=None):
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                while True:
                    s = await self.get_job_status(*job)
                    if s.state is JobState.FAILED:
                        raise JobFailed("x")
                    if s.state is JobState.COMPLETED:
                        return s.result
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise ResultTimedOut from None

    async def cancel_job(self, t, i, **kw):
        return await self.q(t).cancel(i, **kw)

    async def retry_job(self, t, i):
        return await self.q(t).retry(i)

    async def promote_job(self, t, i):
        return await self.q(t).promote(i)

    async def remove_job(self, t, i):
        return await self.q(t).remove(i)

    async def get_queue_stats(self, t):
        return await self.q(t).stats()

    async def pause_queue(self, t):
        return await self.q(t).pause()

    async def resume_queue(self, t):
        return await self.q(t).resume()

    async def clean_queue(self, t, grace_ms, **kw):
        return await self.q(t).clean(__import__("datetime").timedelta(milliseconds=grace_ms), **kw)

    async def drain_queue(self, t, **kw):
        return await self.q(t).drain(**kw)

    async def retry_jobs(self, t, **kw):
        return await self.q(t).retry_many(**kw)

    async def list_workers(self, t):
        return await self.q(t).workers()

    async def list_schedules(self, t):
        return []

    async def last_event_id(self, t):
        e = await self.redis.xrevrange(self.q(t).keys.events, count=1)
        return e[0][0] if e else "0-0"

    async def events(self, t, *, after="$"):
        while True:
            r = await self.redis.xread({self.q(t).keys.events: after}, block=2000, count=100)
            for _, es in r or []:
                for i, f in es:
                    after = i
                    yield Ev(i, f.get("event", ""), f.get("jobId"), f)
