"""Limits that all workers share, and what an idle worker costs."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterable
from datetime import timedelta

import pytest
from tests.integration.chaos.conftest import CrewMaker
from tests.soak import scenarios
from tests.soak.crew import Entry

from corral.testing import EmbeddedServer


@pytest.mark.slow
async def test_a_rate_limit_holds_across_workers_and_languages(make_crew: CrewMaker) -> None:
    limit, window = 20, timedelta(milliseconds=500)
    async with make_crew("sleeper", rate_limit=[limit, window.total_seconds() * 1000]) as crew:
        elapsed = await scenarios.rate_limited(crew, jobs=10 * limit, limit=limit, window=window)
        least = 9 * window.total_seconds()  # the last window's jobs start when it opens
        assert least * 0.98 <= elapsed <= least * 1.1, elapsed


@pytest.mark.slow
async def test_global_concurrency_is_exact_also_after_a_crash(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper", lease_s=1) as crew, scenarios.producer(crew) as corral:
        await corral.set_global_concurrency("sleeper", 3)
        workers = await asyncio.gather(*(crew.hire() for _ in range(3)))
        ids = await scenarios.add(corral, "sleeper", 60, seconds=0.05)
        began = time.monotonic()
        await crew.wait_until_done("sleeper", 60)
        assert time.monotonic() - began < 8, "jobs of 50 ms, three at once, waited for something"
        assert most_at_once(crew.ledger()) == 3
        ids += await scenarios.add(corral, "sleeper", 30, seconds=0.2)
        victim = random.choice(workers)  # noqa: S311 - any will do
        await scenarios.until_active(crew, victim.pid)
        await crew.dismiss(victim, signal.SIGKILL)
        await crew.wait_until_done("sleeper", 90)
        await crew.assert_each_completed_once("sleeper", ids)
        assert most_at_once(entry for entry in crew.ledger() if entry.pid != victim.pid) <= 3
        # The dead worker's place is free again.
        after = time.time()
        ids += await scenarios.add(corral, "sleeper", 12, seconds=0.1)
        await crew.wait_until_done("sleeper", 102)
        assert most_at_once(entry for entry in crew.ledger() if entry.at > after) == 3


def most_at_once(entries: Iterable[Entry]) -> int:
    """The largest number of handlers that ran at the same time."""
    running = most = 0
    for entry in entries:
        running += 1 if entry.event == "start" else -1
        most = max(most, running)
    return most


@pytest.mark.slow
async def test_an_idle_worker_of_four_queues_spends_at_most_11_commands_a_minute(
    make_crew: CrewMaker, corral_private_server: EmbeddedServer
) -> None:
    # Waiting for each queue's next job is one command a minute; here one in two seconds, so that what follows each of
    # them is seen.
    async with make_crew("sleeper", "sleeper-b", "sleeper-c", "sleeper-d", block_s=2) as crew:
        await crew.hire()
        spent = await scenarios.commands_spent(corral_private_server, timedelta(seconds=26), queues=4)
        assert spent.keys() == {"bzpopmin", "exists"}, spent
        assert 4 + spent["exists"] * 60 / 26 <= 11, spent
