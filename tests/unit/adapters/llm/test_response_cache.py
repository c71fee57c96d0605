"""The cache where Redis answers at the wrong moment; ``tests/integration/llm`` has the rest, on a real one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from corral.adapters.llm import flights
from corral.adapters.llm.response_cache import ResponseCache


class LosesCancellations:
    """Takes every command; a renewal loses the first cancellation, as ``wait_for`` of Python 3.11 may."""

    def __init__(self) -> None:
        self.renewing = asyncio.Event()
        self.lost = 0

    async def execute_command(self, *args: Any, **_options: Any) -> Any:
        if args[0] == "EVAL" and "PEXPIRE" in args[1]:
            self.renewing.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if self.lost:
                    raise
                self.lost += 1
        return None if args[0] == "GET" else "OK"

    def pipeline(self, transaction: bool = True) -> Any:  # noqa: FBT001, FBT002 - redis-py's own signature
        raise NotImplementedError


async def test_a_renewal_that_loses_its_cancellation_does_not_keep_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "_RENEWAL_S", 0.0)
    redis = LosesCancellations()
    cache = ResponseCache(redis)
    async with asyncio.timeout(10) as bound:
        async with cache.slot("m", {"prompt": "hello"}):
            await redis.renewing.wait()
    assert redis.lost
    assert not bound.expired()
