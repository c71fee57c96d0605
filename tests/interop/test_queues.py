"""What is done to a queue as a whole: schedulers, deduplication, limits, pause, retention, removal."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from datetime import datetime, timedelta

import pytest
from tests.interop.conftest import QUEUE, corral_worker
from tests.interop.driver import NodeQueue
from tests.interop.handlers import declare

from corral import Corral, JobState
from corral.errors import JobNotFound
from corral.queue.options import Deduplication, Retention

PATIENCE = timedelta(seconds=20)


class TestSchedulers:
    async def _completions(self, theirs: NodeQueue, count: int) -> None:
        await theirs("listen")
        async with asyncio.timeout(20):
            while True:
                seen = await theirs("eventsSeen")
                if sum(1 for one in seen if one["event"] == "completed") >= count:
                    return
                await asyncio.sleep(0.02)  # the condition is looked at again; its arrival is what is waited for

    async def test_node_schedules_and_corral_works(self, corral: Corral, theirs: NodeQueue) -> None:
        template = {"name": QUEUE, "data": {"n": 1}, "opts": {}}
        await theirs("upsertScheduler", scheduler="tick", repeat={"every": 150}, template=template)
        (schedule,) = await corral.list_schedules(QUEUE)
        assert (schedule.id, schedule.every_ms, schedule.data) == ("tick", 150, {"n": 1})
        async with corral_worker(corral):
            await self._completions(theirs, 4)
            await corral.remove_schedule(QUEUE, "tick")
        assert await theirs("schedulers") == []

    async def test_corral_schedules_and_node_works(self, corral: Corral, theirs: NodeQueue) -> None:
        await corral.add_schedule(QUEUE, "tick", every=timedelta(milliseconds=150), data={"n": 1})
        (shown,) = await theirs("schedulers")
        assert (shown["key"], shown["every"], shown["template"]["data"]) == ("tick", 150, {"n": 1})
        await theirs.worker()
        await self._completions(theirs, 4)
        assert await theirs("removeScheduler", scheduler="tick") is True
        assert await corral.list_schedules(QUEUE) == []

    async def test_both_read_a_cron_line_alike(self, corral: Corral, theirs: NodeQueue) -> None:
        repeat = {"pattern": "30 7 * * 1-5", "tz": "Europe/Berlin"}
        await theirs("upsertScheduler", scheduler="theirs", repeat=repeat, template={"name": QUEUE, "data": {}})
        await corral.add_schedule(QUEUE, "ours", cron="30 7 * * 1-5", time_zone="Europe/Berlin", data={})
        shown = {one["key"]: one for one in await theirs("schedulers")}
        assert shown["ours"]["next"] == shown["theirs"]["next"]
        assert (shown["ours"]["pattern"], shown["ours"]["tz"]) == (repeat["pattern"], repeat["tz"])
        listed = {one.id: one for one in await corral.list_schedules(QUEUE)}
        assert listed["ours"].next_run_at == listed["theirs"].next_run_at
        assert (listed["theirs"].cron, listed["theirs"].time_zone) == (repeat["pattern"], repeat["tz"])

    @pytest.mark.parametrize(
        ("cron", "zone", "start"),
        [
            ("30 7 * * *", "Europe/Berlin", "2031-03-29T12:00+01:00"),
            ("30 7 * * *", "Europe/Berlin", "2031-10-25T12:00+02:00"),
            ("30 2 * * *", "Europe/Berlin", "2031-03-29T12:00+01:00"),
            ("30 2 * * *", "Europe/Berlin", "2031-10-26T02:40+02:00"),
            ("30 2 * * *", "America/New_York", "2031-11-01T12:00-04:00"),
            ("*/30 * * * *", "Europe/Berlin", "2031-10-26T02:30+02:00"),
            ("0 */2 * * *", "Europe/Berlin", "2031-03-30T01:00+01:00"),
            ("59 23 31 12 *", "America/Santiago", "2031-07-01T00:00-04:00"),
            ("0 0 * * 5L", "Europe/Berlin", "2031-03-08T12:00+01:00"),
        ],
    )
    async def test_both_read_it_alike_where_the_clocks_are_changed(
        self, corral: Corral, theirs: NodeQueue, cron: str, zone: str, start: str
    ) -> None:
        at = datetime.fromisoformat(start)
        repeat = {"pattern": cron, "tz": zone, "startDate": round(at.timestamp() * 1000)}
        await theirs("upsertScheduler", scheduler="theirs", repeat=repeat, template={"name": QUEUE, "data": {}})
        await corral.add_schedule(QUEUE, "ours", cron=cron, time_zone=zone, start_at=at, data={})
        listed = {one.id: one.next_run_at for one in await corral.list_schedules(QUEUE)}
        assert listed["ours"] == listed["theirs"]

    async def test_corral_changes_what_node_scheduled(self, corral: Corral, theirs: NodeQueue) -> None:
        template = {"name": QUEUE, "data": {"n": 1}, "opts": {}}
        await theirs("upsertScheduler", scheduler="tick", repeat={"every": 60_000}, template=template)
        await corral.add_schedule(QUEUE, "tick", every=timedelta(minutes=2), data={"n": 2})
        (shown,) = await theirs("schedulers")
        assert (shown["every"], shown["template"]["data"]) == (120_000, {"n": 2})
        assert (await theirs("counts"))["delayed"] <= 1


class TestDeduplication:
    async def test_corral_first(self, corral: Corral, theirs: NodeQueue) -> None:
        first = await corral.add_job(QUEUE, {"n": 1}, deduplication=Deduplication("key"))
        assert await theirs("deduplicationJob", deduplication="key") == first.id
        assert await theirs.add({"n": 2}, deduplication={"id": "key"}) == first.id
        await theirs("listen")
        assert (await theirs.event("deduplicated"))["deduplicationId"] == "key"
        async with corral_worker(corral):
            await corral.wait_for_result(first, timeout=PATIENCE)
        assert await theirs.add({"n": 3}, deduplication={"id": "key"}) != first.id

    async def test_node_first(self, corral: Corral, theirs: NodeQueue) -> None:
        first = await theirs.add({"n": 1}, deduplication={"id": "key"})
        assert (await corral.add_job(QUEUE, {"n": 2}, deduplication=Deduplication("key"))).id == first
        await theirs.worker()
        await theirs.result(first)
        assert (await corral.add_job(QUEUE, {"n": 3}, deduplication=Deduplication("key"))).id != first

    async def test_throttled_by_time(self, corral: Corral, theirs: NodeQueue) -> None:
        window = Deduplication("key", ttl=timedelta(minutes=1))
        first = await corral.add_job(QUEUE, {}, deduplication=window)
        await theirs.worker()
        await corral.wait_for_result(first, timeout=PATIENCE)
        assert await theirs.add({}, deduplication={"id": "key", "ttl": 60_000}) == first.id

    @pytest.mark.parametrize("first", ["corral", "node"])
    async def test_debounced(self, corral: Corral, theirs: NodeQueue, first: str) -> None:
        """Each further job takes the delayed one's place, its data and its time, in whatever language."""
        window = Deduplication("key", ttl=timedelta(minutes=1), extend=True, replace=True)

        async def ours(n: int) -> str:
            job = await corral.add_job(QUEUE, {"n": n}, delay=timedelta(minutes=1), deduplication=window)
            return job.id

        async def nodes(n: int) -> str:
            options = {"id": "key", "ttl": 60_000, "extend": True, "replace": True}
            return await theirs.add({"n": n}, delay=60_000, deduplication=options)

        adders = [ours, nodes] if first == "corral" else [nodes, ours]
        for n in range(1, 5):
            added = await adders[n % 2](n)
            (delayed,) = await corral.list_jobs(QUEUE, [JobState.DELAYED])
            assert (delayed.id, delayed.data) == (added, {"n": n})
            assert await theirs("deduplicationJob", deduplication="key") == added
        counts = await theirs("counts")
        assert (counts["delayed"], counts["waiting"]) == (1, 0)
        # Once it has started, the window still holds: what is added then is dropped.
        await corral.promote_job(QUEUE, added)
        async with corral_worker(corral):
            assert (await corral.wait_for_result((QUEUE, added), timeout=PATIENCE))["n"] == 4
        assert await ours(5) == added
        assert await nodes(6) == added

    @pytest.mark.parametrize("worker", ["corral", "node"])
    async def test_the_last_one_runs_after_the_active_one(self, corral: Corral, theirs: NodeQueue, worker: str) -> None:
        keep = Deduplication("key", keep_last_if_active=True)
        first = await corral.add_job(QUEUE, {"act": "sleep", "ms": 1500}, deduplication=keep)
        await theirs("listen")
        async with AsyncExitStack() as stack:
            if worker == "corral":
                await stack.enter_async_context(corral_worker(corral))
            else:
                await theirs.worker()
            await theirs.event("active", first.id)
            for n in range(3):
                same = {"id": "key", "keepLastIfActive": True}
                assert await theirs.add({"n": n}, deduplication=same) == first.id
                again = await corral.add_job(QUEUE, {"n": 10 + n}, deduplication=keep)
                assert again.id == first.id
            await corral.wait_for_result(first, timeout=PATIENCE)
            async with asyncio.timeout(20):
                while len(done := await corral.list_jobs(QUEUE, [JobState.COMPLETED])) < 2:
                    await asyncio.sleep(0.02)  # the condition is looked at again
        assert [job.data for job in done if job.id != first.id] == [{"n": 12}]
        assert (await corral.get_queue_stats(QUEUE)).total == 2


class TestLimits:
    async def test_one_limit_holds_over_both_languages(self, corral: Corral, theirs: NodeQueue) -> None:
        await theirs("setRateLimit", max=10, duration=400)
        ids = await theirs("addBulk", jobs=[{"data": {}} for _ in range(35)])
        await theirs.worker(concurrency=5)
        async with corral_worker(corral):
            for job_id in ids:
                assert "value" in await theirs.result(job_id)
        started = sorted([(await theirs.job(job_id))["processedOn"] for job_id in ids])
        assert started[-1] - started[0] >= 3 * 400 - 40, "35 jobs, 10 in each window, need four windows"
        for index in range(len(started) - 20):
            assert started[index + 20] - started[index] >= 350, "two windows hold at most 20"

    async def test_one_at_a_time_over_both_languages(self, corral: Corral, theirs: NodeQueue) -> None:
        await theirs("setConcurrency", concurrency=1)
        ids = await theirs("addBulk", jobs=[{"data": {"act": "sleep", "ms": 15}} for _ in range(12)])
        await theirs.worker(concurrency=5)
        async with corral_worker(corral):
            for job_id in ids:
                assert "value" in await theirs.result(job_id)
        spans = sorted([(j["processedOn"], j["finishedOn"]) for j in [await theirs.job(i) for i in ids]])
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert start >= end


class TestPause:
    async def test_node_pauses_corral(self, corral: Corral, theirs: NodeQueue) -> None:
        await theirs("pause")
        assert (await corral.get_queue_stats(QUEUE)).paused
        declare(corral, "elsewhere")
        async with corral_worker(corral, QUEUE, "elsewhere"):
            job_id = await theirs.add({})
            other = await corral.add_job("elsewhere", {})  # a round of the same worker process, waited for
            await corral.wait_for_result(other, timeout=PATIENCE)
            assert (await corral.get_queue_stats(QUEUE)).waiting == 1
            await corral.resume_queue(QUEUE)
            assert "value" in await theirs.result(job_id)
        assert await theirs("isPaused") is False

    async def test_corral_pauses_node(self, corral: Corral, theirs: NodeQueue) -> None:
        await corral.pause_queue(QUEUE)
        assert await theirs("isPaused") is True
        await theirs.worker()
        job = await corral.add_job(QUEUE, {}, priority=0)
        assert (await theirs.job(job.id))["state"] in {"waiting", "paused"}
        await theirs("resume")
        assert await corral.wait_for_result(job, timeout=PATIENCE) == {"by": "node"}
        assert not (await corral.get_queue_stats(QUEUE)).paused


class TestRetention:
    async def test_corral_keeps_as_many_as_node_asked(self, corral: Corral, theirs: NodeQueue) -> None:
        ids = await theirs("addBulk", jobs=[{"data": {}, "opts": {"removeOnComplete": {"count": 3}}}] * 8)
        await theirs("listen")
        async with corral_worker(corral, concurrency=1):
            for job_id in ids:
                await theirs.event("completed", job_id)
        assert await theirs("jobs", states=["completed"]) == ids[-3:]

    async def test_node_keeps_as_many_as_corral_asked(self, corral: Corral, theirs: NodeQueue) -> None:
        jobs = await corral.add_jobs(QUEUE, [{}] * 8, priority=0, keep_completed=Retention(count=3))
        await theirs("listen")
        await theirs.worker(concurrency=1)
        for job in jobs:
            await theirs.event("completed", job.id)
        assert await theirs("jobs", states=["completed"]) == [job.id for job in jobs[-3:]]

    @pytest.mark.parametrize("worker", ["corral", "node"])
    async def test_jobs_past_their_age_go(self, corral: Corral, theirs: NodeQueue, worker: str) -> None:
        """The first job's end is put an hour back; one of the next ends finds it too old."""

        async def add() -> str:
            if worker == "corral":
                return await theirs.add({}, removeOnComplete={"age": 600})
            kept = Retention(age=timedelta(minutes=10))
            return (await corral.add_job(QUEUE, {}, keep_completed=kept)).id

        async def old_goes() -> None:
            await theirs("listen")
            old = await add()
            await theirs.event("completed", old)
            await corral.redis.zincrby(f"{theirs.prefix}:{QUEUE}:completed", -3_600_000, old)
            async with asyncio.timeout(10):
                while await theirs("job", job=old) is not None:
                    new = await add()
                    await theirs.event("completed", new)
            assert old not in await theirs("jobs", states=["completed"])
            assert new in await theirs("jobs", states=["completed"])

        if worker == "corral":
            async with corral_worker(corral):
                await old_goes()
        else:
            await theirs.worker()
            await old_goes()

    async def test_failed_jobs_go_as_asked_too(self, corral: Corral, theirs: NodeQueue) -> None:
        job_id = await theirs.add({"act": "fail"}, removeOnFail=True)
        await theirs("listen")
        async with corral_worker(corral):
            assert (await theirs.event("failed", job_id))["failedReason"] == "RuntimeError: made to fail"
        assert await theirs("job", job=job_id) is None


class TestRemoval:
    async def test_of_one_job(self, corral: Corral, theirs: NodeQueue) -> None:
        ours = await corral.add_job(QUEUE, {})
        from_node = await theirs.add({})
        await corral.remove_job(QUEUE, from_node)
        assert await theirs("job", job=from_node) is None
        assert await theirs("remove", job=ours.id) == 1
        with pytest.raises(JobNotFound):
            await corral.get_job_status(QUEUE, ours.id)

    async def test_cancelling_a_waiting_job_removes_it(self, corral: Corral, theirs: NodeQueue) -> None:
        job_id = await theirs.add({})
        await corral.cancel_job(QUEUE, job_id, reason="superseded")
        assert await theirs("job", job=job_id) is None

    @pytest.mark.parametrize("by", ["corral", "node"])
    async def test_cleaning(self, corral: Corral, theirs: NodeQueue, by: str) -> None:
        ids = await theirs("addBulk", jobs=[{"data": {}}] * 3)
        async with corral_worker(corral):
            for job_id in ids:
                await theirs.result(job_id)
        removed = await (
            corral.clean_queue(QUEUE, 0) if by == "corral" else theirs("clean", grace=0, state="completed")
        )
        assert sorted(removed) == sorted(ids)
        assert (await corral.get_queue_stats(QUEUE)).total == 0

    @pytest.mark.parametrize("by", ["corral", "node"])
    async def test_draining_and_obliterating(self, corral: Corral, theirs: NodeQueue, by: str) -> None:
        async def fill() -> None:
            await theirs.add({})
            await theirs.add({}, priority=4)
            await corral.add_job(QUEUE, {}, delay=timedelta(hours=1))

        await fill()
        await (corral.drain_queue(QUEUE, delayed=True) if by == "corral" else theirs("drain", delayed=True))
        assert (await corral.get_queue_stats(QUEUE)).total == 0
        await fill()
        await (corral.obliterate_queue(QUEUE) if by == "corral" else theirs("obliterate"))
        left = [key async for key in corral.redis.scan_iter(match=f"{theirs.prefix}:*")]
        assert left == []
