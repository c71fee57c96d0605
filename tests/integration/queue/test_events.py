"""Following a queue and awaiting results, while connections break, servers restart and others wait too."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.queue.conftest import SOON, settings

from corral import Corral, Job, JobFailed
from corral.errors import StoreAuthenticationFailed, StoreUnavailable
from corral.queue.events import QueueEvent
from corral.testing import EmbeddedServer


async def added(corral: Corral, count: int, into: list[str]) -> None:
    """Follow ``work`` from the beginning until so many jobs were seen to be added."""
    async for event in corral.events("work", after="0-0"):
        if event.name == "added":
            into.append(event.job_id or "")
        if len(into) == count:
            return


async def until_blocked(server: EmbeddedServer) -> None:
    """Wait until a client of the server waits for events."""
    async with asyncio.timeout(10):
        while "cmd=xread" not in await asyncio.to_thread(server.command, "CLIENT", "LIST"):
            await asyncio.sleep(0.01)


async def connected_again(corral: Corral) -> None:
    """Return when the producer's connection is there: one that is being lost would lose the next job's answer."""
    async with asyncio.timeout(20):
        while True:
            try:
                await corral.execute_command("PING")
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                return


@pytest.mark.parametrize("way", ["unblocked", "cut", "killed"])
async def test_events_have_no_gap_and_come_once(corral_private_server: EmbeddedServer, way: str) -> None:
    server = corral_private_server
    async with Corral(server.url, settings=settings(), job_types=()) as corral:
        corral.declare("work")
        seen: list[str] = []
        following = asyncio.create_task(added(corral, 6, seen))
        ids = [(await corral.add_job("work", n)).id for n in range(3)]
        await until_blocked(server)
        if way == "unblocked":  # as a server does to its clients when it becomes a replica
            listed = await asyncio.to_thread(server.command, "CLIENT", "LIST")
            blocked = [line for line in listed.splitlines() if "cmd=xread" in line]
            for line in blocked:
                client = dict(part.split("=", 1) for part in line.split() if "=" in part)["id"]
                await asyncio.to_thread(server.command, "CLIENT", "UNBLOCK", client, "ERROR")
        elif way == "cut":
            await asyncio.to_thread(server.command, "CLIENT", "KILL", "TYPE", "normal")
        else:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await connected_again(corral)
        ids += [(await corral.add_job("work", n)).id for n in range(3)]
        async with asyncio.timeout(20):
            await following
        assert seen == ids


async def test_a_result_is_awaited_through_a_restart(corral_private_server: EmbeddedServer) -> None:
    server = corral_private_server
    release = asyncio.Event()
    async with Corral(server.url, settings=settings(), job_types=()) as corral:

        @corral.handler("work")
        async def work(job: Job[Any]) -> Any:
            await release.wait()
            if job.data == 1:
                raise ValueError("no")
            return job.data

        jobs = await corral.add_jobs("work", [0, 1, 2], attempts=1)
        async with await corral.start_workers():
            waiting = [asyncio.create_task(corral.wait_for_result(job)) for job in jobs for _ in range(3)]
            await until_blocked(server)
            await asyncio.to_thread(server.restart)
            release.set()
            async with asyncio.timeout(20):
                results = await asyncio.gather(*waiting, return_exceptions=True)
    assert results[:3] == [0] * 3
    assert results[6:] == [2] * 3
    assert all(isinstance(result, JobFailed) for result in results[3:6])


async def test_one_who_stops_waiting_leaves_the_others_their_reader(corral: Corral) -> None:
    """One is told of its job's end in the very moment in which all others are asked to look for themselves."""
    corral.declare("work")
    first, second = await corral.add_jobs("work", [1, 2])
    waiting = [asyncio.create_task(corral.wait_for_result(job, timeout=SOON)) for job in (first, second)]
    waiter = corral._waiters.get("work")
    async with asyncio.timeout(10):
        while waiter is None or not waiter._reading.is_set() or len(waiter._waiting) < 2:
            await asyncio.sleep(0.01)
            waiter = corral._waiters.get("work")
    waiter._wake(first.id, QueueEvent("1-0", "completed", first.id, {"returnvalue": '"ended"'}))
    waiter._wake_all()
    assert await waiting[0] == "ended"

    corral_worker = Corral(corral._url, prefix=corral.prefix, settings=settings(), job_types=())
    async with corral_worker:

        @corral_worker.handler("work")
        async def work(job: Job[Any]) -> Any:
            return job.data

        async with await corral_worker.start_workers():
            assert await waiting[1] == 2


async def test_who_may_not_read_the_events_is_told(corral_private_server: EmbeddedServer) -> None:
    server = corral_private_server
    await asyncio.to_thread(server.command, "ACL", "SETUSER", "deaf", "on", ">word", "~*", "&*", "+@all", "-xread")
    url = server.url.replace("://", "://deaf:word@", 1) if "@" not in server.url else server.url
    async with Corral(url, settings=settings(), job_types=()) as corral:
        corral.declare("work")
        job = await corral.add_job("work", 1)
        for awaited in (corral.wait_for_result(job, timeout=SOON), added(corral, 1, [])):
            with pytest.raises(StoreAuthenticationFailed, match=r"does not allow this user.*xread"):
                await awaited
