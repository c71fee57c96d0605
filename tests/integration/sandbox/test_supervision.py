"""How a run that lasts too long is named."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from corral.adapters.sandbox.port import RunEnding
from corral.adapters.sandbox.supervision import Supervision


@pytest.mark.parametrize("crowded", [False, True])
async def test_the_time_is_not_the_reason_when_a_bound_was_passed_that_nobody_had_time_to_see(*, crowded: bool) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60", stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    run = Supervision(timeout=timedelta(milliseconds=50), output_bytes=100, kill=process.kill, sink=lambda _: None)
    if crowded:
        run.last_look = lambda: (RunEnding.TOO_MANY_PROCESSES, "wanted more than 48")
    await run.follow(process, process.stdout)
    assert run.ending is (RunEnding.TOO_MANY_PROCESSES if crowded else RunEnding.TIMEOUT)
