"""Server-Sent Events, over a real socket: the in-process transport gives an answer only when it is whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from tests.integration.interfaces.samples import Client

from corral.client import Corral
from corral.interfaces.http import create_app
from corral.testing.server import free_port
from corral.wire.keys import QueueKeys

Event = tuple[str, str, dict[str, Any]]
Events = AsyncIterator[Event]


@pytest.fixture
async def base(corral: Corral) -> AsyncIterator[str]:
    app = create_app(corral)
    port = free_port()
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    app.state.corral_api.closing.set()
    running.should_exit = True
    await task


@contextlib.asynccontextmanager
async def following(url: str, **headers: str) -> AsyncIterator[Events]:
    async with httpx.AsyncClient(timeout=20) as client, client.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events_of(answer.aiter_lines())


async def events_of(lines: AsyncIterator[str]) -> Events:
    event: dict[str, str] = {}
    async for line in lines:
        if line == "" and "data" in event:
            yield event["event"], event.get("id", ""), json.loads(event["data"])
            event = {}
        elif ": " in line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


async def until(events: Events, name: str) -> Event:
    async for event in events:
        if event[0] == name:
            return event
    raise AssertionError(f"the stream ended without {name!r}")


async def test_queue_tells_what_happens_and_goes_on_by_last_event_id(base: str, corral: Corral) -> None:
    url = f"{base}/v1/queues/anything/events"
    async with following(url) as events:
        await until(events, "ready")
        first = await corral.add_job("anything", {"n": 1})
        _, place, data = await until(events, "added")
        assert data["jobId"] == first.id
        assert data["job"]["state"] == "prioritized"
    missed = await corral.add_job("anything", {"n": 2})

    async with following(url, **{"Last-Event-ID": place}) as events:
        assert (await until(events, "added"))[2]["jobId"] == missed.id


async def test_job_tells_state_and_logs_until_its_end(base: str, corral: Corral) -> None:
    job = await corral.add_job("anything", {"n": 1}, priority=0)
    key = QueueKeys(corral.prefix, "anything").logs(job.id)
    await corral.redis.rpush(key, "one", "two")

    async with following(f"{base}/v1/jobs/anything/{job.id}/events") as events:
        _, place, logged = await until(events, "log")
        assert logged == {"lines": ["one", "two"], "nextOffset": 2}
        assert (await until(events, "job"))[2]["state"] == "waiting"
        await corral.redis.rpush(key, "three")
        assert (await until(events, "log"))[2] == {"lines": ["three"], "nextOffset": 3}
    async with following(f"{base}/v1/jobs/anything/{job.id}/events", **{"Last-Event-ID": place}) as events:
        assert (await until(events, "log"))[2] == {"lines": ["three"], "nextOffset": 3}
        await corral.remove_job("anything", job.id)
        assert (await until(events, "end"))[2] == {"state": "removed"}


async def test_wrong_last_event_id_is_refused(client: Client) -> None:
    answer = await client.get("/v1/queues/anything/events", headers={"Last-Event-ID": "yesterday"})

    assert (answer.status_code, answer.json()["type"]) == (422, "urn:corral:problem:request-invalid")


async def test_streams_end_when_the_server_is_about_to_stop(corral: Corral) -> None:
    app = create_app(corral)
    port = free_port()
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    async with following(f"http://127.0.0.1:{port}/v1/queues/anything/events") as events:
        await until(events, "ready")
        app.state.corral_api.closing.set()
        assert [event async for event in events] == []
    running.should_exit = True
    await task
