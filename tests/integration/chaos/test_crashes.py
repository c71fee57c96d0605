"""Workers that die, freeze, or block: every job ends once in the record."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from tests.integration.chaos.conftest import CrewMaker
from tests.soak import scenarios

from corral.queue.job import JobState


@pytest.mark.slow
async def test_killed_workers_lose_nothing(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper", lease_s=1.5) as crew:
        await scenarios.kill_storm(crew, jobs=160, kills=4, workers=3, seconds=0.3, concurrency=4)


@pytest.mark.slow
async def test_a_killed_workers_job_starts_again_within_15_s_by_default(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper") as crew:
        victim = await crew.hire()
        async with scenarios.producer(crew) as corral:
            ids = await scenarios.add(corral, "sleeper", 10, seconds=30)
            await crew.wait_for_entries("start", 10)
            survivor = await crew.hire()  # it has nothing to do, and looks around as seldom as it may
            died = time.time()
            await crew.dismiss(victim, signal.SIGKILL)
            again = (await crew.wait_for_entries("start", 20))[10:]
            assert max(entry.at for entry in again) - died < 15
            assert {entry.pid for entry in again} == {survivor.pid}
            assert {entry.id for entry in again} == set(ids)
            assert {(entry.attempt, entry.crashes) for entry in again} == {(1, 1)}


@pytest.mark.slow
async def test_a_job_that_kills_its_workers_fails_past_its_own_limit(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper", lease_s=0.5, max_crashes=1) as crew, scenarios.producer(crew) as corral:
        job = await corral.add_job("sleeper", {"seconds": 600}, attempts=5)
        for crash in range(2):
            victim = await crew.hire()
            await crew.wait_for_entries("start", crash + 1)
            await crew.dismiss(victim, signal.SIGKILL)
        await crew.hire()
        await crew.wait_until_done("sleeper", 1, within_s=40)
        status = await corral.get_job_status("sleeper", job.id)
        assert status.state is JobState.FAILED
        assert "2 times" in (status.error or "")
        assert len(crew.ledger("start")) == 2


@pytest.mark.slow
async def test_a_handler_that_blocks_for_three_leases_runs_once(make_crew: CrewMaker) -> None:
    async with make_crew("blocker", lease_s=1, concurrency=1) as crew:
        kinds = ("sleep", "python", "c")
        await asyncio.gather(*(crew.hire() for _ in (*kinds, "one more, who would take a job over")))
        async with scenarios.producer(crew) as corral:
            jobs = [await corral.add_job("blocker", {"seconds": 3, "kind": kind}) for kind in kinds]
            await crew.wait_until_done("blocker", len(jobs), within_s=40)
            await crew.assert_each_completed_once("blocker", [job.id for job in jobs])
            assert len(crew.ledger("start")) == len(jobs)
            for job in jobs:
                assert (await corral.get_job_status("blocker", job.id)).crashes == 0


@pytest.mark.slow
async def test_a_frozen_worker_cannot_write_a_result(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper", lease_s=1, concurrency=2) as crew:
        frozen = await crew.hire()
        async with scenarios.producer(crew) as corral:
            ids = await scenarios.add(corral, "sleeper", 2, seconds=3)
            await crew.wait_for_entries("start", 2)
            frozen.send(signal.SIGSTOP)
            other = await crew.hire()
            await crew.wait_until_done("sleeper", 2, within_s=40)
            results = [(await corral.get_job_status("sleeper", job_id)).result for job_id in ids]
            assert [result["by"] for result in results] == [other.pid, other.pid]
            frozen.send(signal.SIGCONT)
            # It goes on: its handlers are told, nothing of theirs is written, and it takes new jobs.
            third = await corral.add_job("sleeper", {"seconds": 0})
            await crew.dismiss(other)
            await crew.wait_until_done("sleeper", 3)
            await crew.assert_each_completed_once("sleeper", [*ids, third.id])
            assert [(await corral.get_job_status("sleeper", job_id)).result for job_id in ids] == results
            assert frozen.process is not None
            assert frozen.process.returncode is None


@pytest.mark.slow
async def test_a_frozen_workers_handlers_are_cancelled_when_it_wakes(make_crew: CrewMaker) -> None:
    async with make_crew("sleeper", lease_s=1, concurrency=2) as crew:
        frozen = await crew.hire()
        async with scenarios.producer(crew) as corral:
            ids = await scenarios.add(corral, "sleeper", 2, seconds=30)
            await crew.wait_for_entries("start", 2)
            frozen.send(signal.SIGSTOP)
            other = await crew.hire()
            await crew.wait_for_entries("start", 4, within_s=40)
            frozen.send(signal.SIGCONT)
            cancelled = await crew.wait_for_entries("cancelled", 2)
            assert {entry.pid for entry in cancelled} == {frozen.pid}
            assert {entry.id for entry in cancelled} == set(ids)
            counts = await crew.state_counts("sleeper")
            assert counts["active"] == 2
            assert other.pid != frozen.pid


@pytest.mark.slow
async def test_a_worker_that_gets_its_own_lost_job_back_runs_it_once(make_crew: CrewMaker) -> None:
    """Frozen past its lease, the only worker claims the job again, in another lane: the first run is stopped."""
    async with make_crew("sleeper", lease_s=1, concurrency=2) as crew, scenarios.producer(crew) as corral:
        worker = await crew.hire()
        job = await corral.add_job("sleeper", {"seconds": 4})
        await crew.wait_for_entries("start", 1)
        worker.send(signal.SIGSTOP)
        scripts = (await corral._queue("sleeper")).scripts
        while not await scripts.sweep_stalled(max_crashes=3, interval_ms=1):  # as another worker would
            await asyncio.sleep(0.1)
        worker.send(signal.SIGCONT)
        await crew.wait_for_entries("start", 2)
        await crew.wait_until_done("sleeper", 1)
        await crew.assert_each_completed_once("sleeper", [job.id])
        assert [entry.event for entry in crew.ledger() if entry.event != "start"] == ["cancelled", "end"]
