"""Workers that are told to stop, and jobs that are cancelled."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from tests.integration.chaos.conftest import CrewMaker
from tests.soak import scenarios
from tests.soak.crew import eventually

from corral.queue.job import JobState


@pytest.mark.slow
async def test_rolling_restarts_lose_nothing_and_run_nothing_twice(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper", concurrency=5) as crew:
        await scenarios.rolling_restarts(crew, jobs=120, restarts=3, workers=2, seconds=0.2)


@pytest.mark.slow
async def test_a_stop_puts_back_what_has_not_ended_without_using_an_attempt(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper", shutdown_s=0.5, concurrency=3) as crew:
        worker = await crew.hire()
        async with scenarios.producer(crew) as corral:
            ids = await scenarios.add(corral, "sleeper", 5, seconds=120)
            await crew.wait_for_entries("start", 3)
            assert await crew.dismiss(worker) == 0
            started = {entry.id for entry in crew.ledger("start")}
            assert {entry.id for entry in crew.ledger("cancelled")} == started
            counts = await crew.state_counts("sleeper")
            assert counts["active"] == 0
            assert counts["wait"] + counts["prioritized"] == 5
            for job_id in ids:
                status = await corral.get_job_status("sleeper", job_id)
                assert (status.attempts, status.crashes) == (0, 0)
            # At the head of the queue, ready at once.
            await crew.hire()
            again = (await crew.wait_for_entries("start", 6))[3:]
            assert {entry.id for entry in again[:3]} == started
            assert {entry.attempt for entry in again} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_shortens_the_deadline_to_nothing(make_crew: CrewMaker, second: signal.Signals) -> None:
    async with make_crew("sleeper", shutdown_s=120) as crew:
        worker = await crew.hire()
        async with scenarios.producer(crew) as corral:
            await scenarios.add(corral, "sleeper", 2, seconds=120)
            await crew.wait_for_entries("start", 2)
            worker.send(signal.SIGTERM)
            await eventually(lambda: "no more jobs are claimed" in worker.log, "the stop to begin")
            late = await corral.add_job("sleeper", {"seconds": 0})
            began = time.monotonic()
            assert await crew.dismiss(worker, second) == 0
            assert time.monotonic() - began < 10
            assert len(crew.ledger("cancelled")) == 2
            assert not crew.ledger("start", late.id)
            counts = await crew.state_counts("sleeper")
            assert counts["active"] == 0
            assert sum(counts.values()) == 3


@pytest.mark.slow
async def test_an_active_job_is_cancelled_from_another_process_within_a_second(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper") as crew:
        worker = await crew.hire()
        latencies = await scenarios.cancel_latency(crew, rounds=5, worker=worker)
        assert max(latencies) < 1


@pytest.mark.slow
async def test_a_job_is_cancelled_while_its_worker_is_cut_off(make_crew: CrewMaker) -> None:
    """The request is kept for a worker whose subscription is broken just then."""
    async with make_crew("sleeper", lease_s=20) as crew:
        worker = await crew.hire()
        async with scenarios.producer(crew) as corral:
            job = await corral.add_job("sleeper", {"seconds": 120})
            await crew.wait_for_entries("start", 1)
            worker.send(signal.SIGSTOP)
            await crew.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await corral.cancel_job("sleeper", job.id, reason="while away")
            worker.send(signal.SIGCONT)
            await crew.wait_until_done("sleeper", 1)
            status = await corral.get_job_status("sleeper", job.id)
            assert status.state is JobState.FAILED
            assert "while away" in (status.error or "")
            assert len(await asyncio.to_thread(crew.ledger, "start")) == 1
