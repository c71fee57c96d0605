"""A Corral on a real server, each test under a prefix of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from corral import Corral, JobState, JobStatus, Settings
from corral.testing.server import EmbeddedServer

SOON = timedelta(seconds=10)


def settings(**values: Any) -> Settings:
    """Settings of no environment, with a lease that lets tests of lost workers end soon."""
    return Settings(_env_file=None, **{"lease": timedelta(seconds=2), **values})


@pytest.fixture
async def corral(corral_server: EmbeddedServer, corral_prefix: str) -> AsyncIterator[Corral]:
    """Connected; what is declared is the test's."""
    async with Corral(corral_server.url, prefix=corral_prefix, settings=settings(), job_types=()) as made:
        yield made


@pytest.fixture
def raw(corral: Corral) -> Callable[..., Awaitable[Any]]:
    """Any Redis command, for looking behind Corral's back."""

    async def command(*parts: Any) -> Any:
        return await corral.redis.execute_command(*parts)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    return command


async def until_state(corral: Corral, job_type: str, job_id: str, *states: JobState) -> JobStatus:
    """Ask until the job is in one of the states (a transient one may pass between two events)."""
    async with asyncio.timeout(20):
        while True:
            status = await corral.get_job_status(job_type, job_id)
            if status.state in states:
                return status
            await asyncio.sleep(0.005)
