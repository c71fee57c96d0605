"""What tests of code generation on a real repository share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.integration.code_generation.test_real_repository import Bench, write_repository

from corral.testing import EmbeddedServer


@pytest.fixture
async def bench(tmp_path: Path, corral_server: EmbeddedServer) -> Any:
    redis = Redis.from_url(corral_server.url, decode_responses=True)
    await redis.flushdb()
    made = Bench(redis, tmp_path / "data", write_repository(tmp_path / "repository"))
    await made.add()
    yield made
    await redis.aclose()
