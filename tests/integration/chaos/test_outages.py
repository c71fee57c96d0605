"""Redis goes away and comes back, in every way, under load."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.chaos.conftest import CrewMaker
from tests.soak import scenarios
from tests.soak.scenarios import Outages

from corral.testing import EmbeddedServer, TcpProxy


@pytest.mark.slow
async def test_outages_lose_nothing_and_are_logged_once(
    make_crew: CrewMaker, corral_private_server: EmbeddedServer
) -> None:
    async with (
        TcpProxy(corral_private_server.port) as proxy,
        make_crew("sleeper", url=proxy.url_for(corral_private_server.url)) as crew,
    ):
        await asyncio.gather(crew.hire(), crew.hire())
        outages = Outages(crew, corral_private_server, proxy)
        await outages.run(["restart", "kill", "client_kill", "cut", "half_close", "drop_replies", "slow_down"])
        for name, times in outages.back_after.items():
            assert max(times) < 5, f"{name}: {times}"


@pytest.mark.slow
async def test_a_path_that_swallows_everything_is_given_up(
    make_crew: CrewMaker, corral_private_server: EmbeddedServer
) -> None:
    async with (
        TcpProxy(corral_private_server.port) as proxy,
        make_crew("sleeper", url=proxy.url_for(corral_private_server.url), lease_s=20) as crew,
    ):
        await crew.hire()
        outages = Outages(crew, corral_private_server, proxy)
        await outages.run(["stall"], producers=1)
        assert outages.back_after["stall"][0] < 5


@pytest.mark.slow
async def test_a_result_computed_while_redis_was_away_is_written(
    make_crew: CrewMaker, corral_private_server: EmbeddedServer
) -> None:
    async with make_crew("sleeper") as crew:
        await crew.hire()
        async with scenarios.producer(crew) as corral:
            ids = await scenarios.add(corral, "sleeper", 5, seconds=1)
            await crew.wait_for_entries("start", 5)
            await asyncio.to_thread(corral_private_server.kill)
            await crew.wait_for_entries("end", 5)  # nobody is there to be told
            await asyncio.to_thread(corral_private_server.start)
            await crew.wait_until_done("sleeper", 5)
            await crew.assert_each_completed_once("sleeper", ids)
            assert len(crew.ledger("start")) == 5
