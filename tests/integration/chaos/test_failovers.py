"""A real Sentinel set and a real Cluster lose their primary under load."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.soak import scenarios
from tests.soak.crew import Crew

from corral import Corral, Settings
from corral.errors import StoreUnsuitable
from corral.testing import EmbeddedCluster, EmbeddedSentinels


@pytest.fixture
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


@pytest.fixture
def sentinels() -> Iterator[EmbeddedSentinels]:
    with EmbeddedSentinels() as sentinels:
        yield sentinels


@pytest.mark.slow
async def test_workers_follow_a_sentinels_failover(sentinels: EmbeddedSentinels, tmp_path: Path) -> None:
    async with Crew(url=sentinels.url, prefix="chaos", folder=tmp_path, queues=["sleeper"]) as crew:
        await asyncio.gather(crew.hire(), crew.hire())

        async def kill_primary() -> None:
            await asyncio.to_thread(sentinels.primary.kill)

        assert await scenarios.failover(crew, kill_primary) < 15
        assert sentinels.current_primary() is sentinels.replica


@pytest.mark.slow
async def test_workers_follow_a_clusters_failover(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    async with Crew(url=cluster.url, prefix="{chaos}", folder=tmp_path, queues=["sleeper"]) as crew:
        await asyncio.gather(crew.hire(), crew.hire())

        async def kill_primary() -> None:
            serving = await asyncio.to_thread(cluster.server_of, "{chaos}")
            await asyncio.to_thread(serving.kill)

        assert await scenarios.failover(crew, kill_primary) < 15


async def test_a_cluster_needs_a_hash_tag(cluster: EmbeddedCluster) -> None:
    corral = Corral(settings=Settings(_env_file=None, redis_url=cluster.url, prefix="bull"))
    with pytest.raises(StoreUnsuitable, match=r"\{bull\}"):
        await corral.connect()
    await corral.close()
