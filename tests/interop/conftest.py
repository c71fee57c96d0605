"""Corral and Node's BullMQ on one server, each test under a prefix of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from tests.interop.driver import NodeDriver, NodeQueue
from tests.interop.handlers import declare

from corral import Corral
from corral.testing.server import EmbeddedServer

QUEUE = "thumbnail"


@pytest.fixture(scope="session")
def interop_server() -> Iterator[EmbeddedServer]:
    """One server for all of these tests."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="session")
def node(interop_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeDriver]:
    """Node's BullMQ, started once."""
    log: Path = tmp_path_factory.mktemp("node") / "stderr.log"
    driver = NodeDriver(interop_server.url, log)
    yield driver
    driver.stop()


@pytest.fixture
async def theirs(node: NodeDriver) -> AsyncIterator[NodeQueue]:
    """The queue, as Node sees it."""
    queue = NodeQueue(node, f"t{uuid.uuid4().hex[:12]}", QUEUE)
    yield queue
    await queue("close")


@pytest.fixture
async def corral(interop_server: EmbeddedServer, theirs: NodeQueue) -> AsyncIterator[Corral]:
    """Corral on the same server and prefix, with a handler for the queue."""
    made = Corral(redis_url=interop_server.url, prefix=theirs.prefix)
    declare(made, QUEUE)
    async with made:
        yield made


@asynccontextmanager
async def corral_worker(corral: Corral, *queues: str, concurrency: int = 5) -> AsyncIterator[None]:
    """Corral's workers, for the time of the block."""
    workers = await corral.start_workers(queues or (QUEUE,), concurrency=concurrency)
    try:
        yield
    finally:
        await workers.stop(timeout=timedelta(seconds=5))
