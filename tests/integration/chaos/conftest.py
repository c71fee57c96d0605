"""A server of its own and a crew of worker processes for each test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.soak.crew import Crew

from corral.testing import EmbeddedServer
from corral.testing.pytest_plugin import corral_private_server

__all__ = ["corral_private_server"]


class CrewMaker(Protocol):
    """Makes a crew for some queues."""

    def __call__(self, *queues: str, url: str | None = None, **config: Any) -> Any: ...


@pytest.fixture
def make_crew(corral_private_server: EmbeddedServer, tmp_path: Path) -> CrewMaker:
    """Crews on this test's server; ``url`` puts something between the workers and it."""

    @asynccontextmanager
    async def make(*queues: str, url: str | None = None, **config: Any) -> AsyncIterator[Crew]:
        async with Crew(
            url=url or corral_private_server.url,
            direct_url=corral_private_server.url,
            prefix=f"chaos-{secrets.token_hex(4)}",
            folder=tmp_path,
            queues=queues or ("sleeper",),
            config=config,
        ) as crew:
            yield crew

    return make
