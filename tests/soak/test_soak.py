"""The long runs: ``make soak``. Each prints its figures."""

from __future__ import annotations

import asyncio
import statistics
from datetime import timedelta

import pytest
from tests.integration.chaos.conftest import CrewMaker
from tests.soak import scenarios

from corral.testing import EmbeddedServer, TcpProxy

pytestmark = pytest.mark.soak


async def test_fifty_kills_over_twenty_thousand_jobs(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper", lease_s=2) as crew:
        await scenarios.kill_storm(crew, jobs=20_000, kills=50, workers=4, seconds=0.05, concurrency=25)


async def test_twenty_freezes(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper", concurrency=10) as crew:
        await scenarios.freeze_storm(crew, jobs=2_000, freezes=20, workers=3, seconds=0.2, lease_s=1)


async def test_a_hundred_rolling_restarts(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper", concurrency=10) as crew:
        await scenarios.rolling_restarts(crew, jobs=10_000, restarts=100, workers=3, seconds=0.1)


async def test_every_outage_ten_times(make_crew: CrewMaker, corral_private_server: EmbeddedServer) -> None:
    async with (
        TcpProxy(corral_private_server.port) as proxy,
        make_crew("sleeper", url=proxy.url_for(corral_private_server.url), lease_s=20) as crew,
    ):
        await asyncio.gather(*(crew.hire() for _ in range(3)))
        outages = scenarios.Outages(crew, corral_private_server, proxy)
        kinds = ["restart", "kill", "client_kill", "cut", "half_close", "drop_replies", "slow_down", "stall"]
        await outages.run(kinds * 10)
        for name, times in outages.back_after.items():
            print(f"{name}: jobs start again after {statistics.median(times):.2f} s (at most {max(times):.2f} s)")  # noqa: T201
            assert max(times) < 5


async def test_a_rate_limit_over_a_minute(make_crew: CrewMaker) -> None:
    limit, window = 100, timedelta(seconds=1)
    async with make_crew("sleeper", rate_limit=[limit, window.total_seconds() * 1000]) as crew:
        elapsed = await scenarios.rate_limited(crew, jobs=61 * limit, limit=limit, window=window)
        rate = 60 * limit / elapsed
        print(f"{rate:.2f} jobs/s under a limit of {limit}")  # noqa: T201
        assert rate == pytest.approx(limit, rel=0.02)


async def test_the_cost_of_three_idle_minutes(make_crew: CrewMaker, corral_private_server: EmbeddedServer) -> None:
    async with make_crew("sleeper", "sleeper-b", "sleeper-c", "sleeper-d") as crew:
        await crew.hire()
        spent = await scenarios.commands_spent(corral_private_server, timedelta(minutes=3), queues=4)
        print(f"{sum(spent.values()) / 3:.1f} commands a minute: {dict(spent)}")  # noqa: T201
        assert sum(spent.values()) / 3 <= 11


async def test_a_hundred_cancellations(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper") as crew:
        latencies = await scenarios.cancel_latency(crew, rounds=100, worker=await crew.hire())
        print(f"cancelled after {statistics.median(latencies) * 1000:.0f} ms (at most {max(latencies) * 1000:.0f} ms)")  # noqa: T201
        assert max(latencies) < 1
