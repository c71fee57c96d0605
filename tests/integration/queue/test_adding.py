"""Adding: what is refused leaves nothing in Redis, what is accepted is as BullMQ's clients expect it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from tests.integration.queue.conftest import SOON

from corral import Corral, Deduplication, Flow, JobState, PayloadInvalid, Retention, UnknownJobType

Raw = Callable[..., Awaitable[Any]]


class Resize(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    image_url: str
    max_width: int = 100


@pytest.fixture(autouse=True)
def declared(corral: Corral) -> None:
    corral.declare("resize", payload=Resize)


@pytest.mark.parametrize("data", [{"imageUrl": "a"}, {"image_url": "a"}, Resize(image_url="a")])
async def test_any_spelling_is_camel_case_on_the_wire(corral: Corral, raw: Raw, data: Any) -> None:
    job = await corral.add_job("resize", data)
    assert json.loads(await raw("HGET", f"{corral.prefix}:resize:{job.id}", "data")) == {"imageUrl": "a"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"imageUrl": 5}, "imageUrl: input should be a valid string, got 5"),
        ({}, "imageUrl: field required"),
        ({"imageUrl": "a", "maxWidht": 5}, "maxWidht: there is no such field"),
        ("text", "(whole)"),
        ({"imageUrl": "x" * 9_000_000}, "too large"),
    ],
)
async def test_a_payload_that_does_not_fit_is_not_in_redis(corral: Corral, raw: Raw, data: Any, said: str) -> None:
    with pytest.raises(PayloadInvalid) as caught:
        await corral.add_job("resize", data)
    assert said in str(caught.value)
    assert await raw("KEYS", f"{corral.prefix}:*") == []


@pytest.mark.parametrize(
    "options",
    [
        {"priority": -1},
        {"priority": 2**21},
        {"attempts": 0},
        {"delay": timedelta(seconds=-1)},
        {"run_at": datetime(2030, 1, 1)},  # noqa: DTZ001 - that it has no zone is the point
        {"delay": timedelta(1), "run_at": datetime.now(UTC)},
        {"job_id": "12"},
        {"job_id": "a:b"},
        {"job_id": ""},
        {"lifo": True, "priority": 5},
    ],
)
async def test_an_option_that_does_not_fit_is_told_by_name(corral: Corral, raw: Raw, options: dict[str, Any]) -> None:
    with pytest.raises(PayloadInvalid) as caught:
        await corral.add_job("resize", {"imageUrl": "a"}, **options)
    assert any(name in str(caught.value) for name in options)
    assert await raw("KEYS", f"{corral.prefix}:*") == []


async def test_an_undeclared_job_type_is_told_with_the_known_ones(corral: Corral) -> None:
    with pytest.raises(UnknownJobType, match="resize"):
        await corral.add_job("resise", {})


async def test_in_bulk_a_bad_one_stops_all(corral: Corral, raw: Raw) -> None:
    with pytest.raises(PayloadInvalid, match="Job 1 of 3"):
        await corral.add_jobs("resize", [{"imageUrl": "a"}, {"imageUrl": 1}, {"imageUrl": "c"}])
    assert await raw("KEYS", f"{corral.prefix}:*") == []


async def test_in_bulk_ids_come_in_order(corral: Corral) -> None:
    jobs = await corral.add_jobs("resize", [{"imageUrl": str(n)} for n in range(12_000)], priority=0)
    assert [job.id for job in jobs] == [str(n) for n in range(1, 12_001)]
    stats = await corral.get_queue_stats("resize")
    assert (stats.waiting, stats.total) == (12_000, 12_000)


async def test_an_own_id_makes_adding_twice_one_job(corral: Corral) -> None:
    first = await corral.add_job("resize", {"imageUrl": "a"}, job_id="one")
    second = await corral.add_job("resize", {"imageUrl": "b"}, job_id="one")
    assert first == second
    status = await corral.get_job_status("resize", "one")
    assert status.data == {"imageUrl": "a"}
    assert (await corral.get_queue_stats("resize")).total == 1


async def test_jobs_run_by_priority_and_within_one_in_order(corral: Corral) -> None:
    order: list[str] = []
    all_ran = asyncio.Event()

    @corral.handler("sort")
    async def sort(job: Any) -> None:
        order.append(job.data)
        if len(order) == 6:
            all_ran.set()

    for name, priority in (
        ("low", 10),
        ("medium", None),
        ("critical 1", 0),
        ("high", 1),
        ("critical 2", 0),
        ("low 2", 10),
    ):
        await corral.add_job("sort", name, priority=priority)
    workers = await corral.start_workers(["sort"], concurrency=1)
    async with asyncio.timeout(10):
        await all_ran.wait()
    await workers.stop()
    assert order == ["critical 1", "critical 2", "high", "medium", "low", "low 2"]


async def test_lifo_goes_ahead_of_its_equals(corral: Corral) -> None:
    for name in ("a", "b"):
        await corral.add_job("resize", {"imageUrl": name}, priority=0)
    await corral.add_job("resize", {"imageUrl": "c"}, priority=0, lifo=True)
    waiting = await corral.list_jobs("resize", [JobState.WAITING], newest_first=False)
    assert [job.data["imageUrl"] for job in waiting] == ["c", "a", "b"]


async def test_a_delayed_job_waits_and_can_be_promoted(corral: Corral) -> None:
    by_delay = await corral.add_job("resize", {"imageUrl": "a"}, delay=timedelta(hours=1))
    by_time = await corral.add_job("resize", {"imageUrl": "b"}, run_at=datetime.now(UTC) + timedelta(hours=1))
    for job in (by_delay, by_time):
        status = await corral.get_job_status("resize", job.id)
        assert status.state is JobState.DELAYED
        assert 3_590_000 < status.delay_ms <= 3_600_010
    await corral.promote_job("resize", by_delay.id)
    assert (await corral.get_job_status("resize", by_delay.id)).state is JobState.PRIORITIZED
    assert await corral.promote_jobs("resize") == 1


async def test_deduplication_until_the_first_has_ended(corral: Corral) -> None:
    @corral.handler("once")
    async def once(job: Any) -> Any:
        return job.data

    first = await corral.add_job("once", 1, deduplication=Deduplication("x"))
    assert (await corral.add_job("once", 2, deduplication=Deduplication("x"))).id == first.id
    assert (await corral.add_job("once", 3, deduplication=Deduplication("y"))).id != first.id
    async with await corral.start_workers(["once"]):
        assert await corral.wait_for_result(first, timeout=SOON) == 1
        again = await corral.add_job("once", 4, deduplication=Deduplication("x"))
        assert again.id != first.id
        assert await corral.wait_for_result(again, timeout=SOON) == 4


async def test_throttling_ends_with_its_window_not_with_the_job(corral: Corral, raw: Raw) -> None:
    @corral.handler("once")
    async def once(job: Any) -> Any:
        return job.data

    window = Deduplication("x", ttl=timedelta(minutes=1))
    async with await corral.start_workers(["once"]):
        first = await corral.add_job("once", 1, deduplication=window)
        assert await corral.wait_for_result(first, timeout=SOON) == 1
        assert (await corral.add_job("once", 2, deduplication=window)).id == first.id
        left_ms = await raw("PTTL", f"{corral.prefix}:once:de:x")
        assert 50_000 < left_ms <= 60_000  # the second did not start it anew
        await raw("PEXPIRE", f"{corral.prefix}:once:de:x", 1)
        while await raw("EXISTS", f"{corral.prefix}:once:de:x"):
            await asyncio.sleep(0.001)
        assert (await corral.add_job("once", 3, deduplication=window)).id != first.id


async def test_debounce_replaces_the_delayed_job(corral: Corral) -> None:
    window = Deduplication("x", ttl=timedelta(minutes=1), extend=True, replace=True)
    for name in ("a", "b"):
        job = await corral.add_job("resize", {"imageUrl": name}, delay=timedelta(minutes=1), deduplication=window)
    stats = await corral.get_queue_stats("resize")
    assert stats.delayed == 1
    assert (await corral.get_job_status("resize", job.id)).data == {"imageUrl": "b"}


async def test_a_flow_is_added_whole_or_not_at_all(corral: Corral, raw: Raw) -> None:
    bad = Flow(job_type="resize", data={"imageUrl": 1})
    with pytest.raises(PayloadInvalid):
        await corral.add_flow(Flow(job_type="resize", data={"imageUrl": "a"}, children=[bad]))
    assert await raw("KEYS", f"{corral.prefix}:*") == []


async def test_retention_by_count_and_at_once(corral: Corral, raw: Raw) -> None:
    @corral.handler("brief", keep_completed=Retention(count=0))
    async def brief(job: Any) -> int:
        return int(job.data)

    async with await corral.start_workers(["brief"]):
        job = await corral.add_job("brief", 7)
        assert await corral.wait_for_result(job, timeout=SOON) == 7
        assert await raw("EXISTS", f"{corral.prefix}:brief:{job.id}") == 0
        kept = [await corral.add_job("brief", n, keep_completed=Retention(count=2)) for n in range(5)]
        for each in kept:
            await corral.wait_for_result(each, timeout=SOON)
        assert (await corral.get_queue_stats("brief")).completed == 2
