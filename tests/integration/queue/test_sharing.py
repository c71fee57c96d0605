"""Queues whose users take turns: the order, the bounds on one user's jobs, and that neither can be left wrong."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import textwrap
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.queue.conftest import SOON, until_state
from tests.integration.queue.conftest import settings as corral_settings

from corral import (
    Backoff,
    ConfigurationError,
    Corral,
    Deduplication,
    Flow,
    Job,
    JobState,
    PayloadInvalid,
    PerUser,
    TooManyJobs,
    Unrecoverable,
    UserShare,
)
from corral.queue.queue import Queue
from corral.queue.usher import Usher
from corral.testing.server import EmbeddedServer
from corral.wire.codec import JobRecord, packed
from corral.wire.pipe import pack
from corral.wire.scripts import read_claim

Raw = Callable[..., Awaitable[Any]]
QUEUE = "turns"


async def _queue(corral: Corral, name: str = QUEUE) -> Queue:
    return await corral._queue(name)


async def _claim(queue: Queue) -> JobRecord | None:
    """The next job, taken as a worker in any language takes it: by BullMQ's own script."""
    options = packed({"token": "test", "lockDuration": 30_000, "name": "test"})
    return read_claim(await queue.scripts.answer("moveToActive", queue.scripts.fetch_command(options))).record


async def _finish(queue: Queue, job_id: str, *, target: str = "completed") -> None:
    options = packed(
        {"token": "test", "keepJobs": {"count": -1}, "attempts": 1, "maxMetricsSize": "", "lockDuration": 1}
    )
    head = f"${len(options)}\r\n".encode() + options + b"\r\n"
    command = queue.scripts.finish_command(
        job_id=job_id, target=target, value=b"null", fetch_next=False, options=head, changed=None
    )
    assert await queue.scripts.answer("moveToFinished", command) == 0


async def _order(queue: Queue) -> list[Any]:
    """Payloads of all jobs that wait, in the order in which workers get them."""
    found = []
    while (record := await _claim(queue)) is not None:
        found.append(record)
    return [(spec := queue.spec.decode_payload(record.data))["userId"] + str(spec.get("n", "")) for record in found]


def _jobs(user: str, count: int) -> list[dict[str, Any]]:
    return [{"userId": user, "n": n} for n in range(count)]


# --- the order


async def test_a_thousand_jobs_of_one_user_let_anothers_pass(corral: Corral) -> None:
    corral.declare(QUEUE, per_user=PerUser())
    queue = await _queue(corral)
    await corral.add_jobs(QUEUE, _jobs("many", 1_000))
    for _ in range(400):
        await _claim(queue)
    await corral.add_jobs(QUEUE, _jobs("few", 3))
    order = await _order(queue)
    assert order[:7] == ["many400", "few0", "many401", "few1", "many402", "few2", "many403"]
    assert order[7:] == [f"many{n}" for n in range(404, 1_000)]


_ADDS = st.tuples(st.just("add"), st.sampled_from("abcd"), st.integers(1, 12), st.sampled_from([None, 0, 1, 10]))
_CLAIMS = st.tuples(st.just("claim"), st.just(""), st.integers(1, 12), st.none())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(_ADDS, _CLAIMS), min_size=1, max_size=25))
def test_no_user_is_passed_more_than_twice_by_another(
    corral_server: EmbeddedServer, steps: list[tuple[str, str, int, int | None]]
) -> None:
    """Starts are what lanes have in common: at most two of another's between a user's turn and the next is the bound
    for one lane, and the stricter one for several."""

    async def play() -> None:
        async with Corral(
            corral_server.url, prefix=f"t{uuid.uuid4().hex[:12]}", settings=corral_settings(), job_types=()
        ) as corral:
            corral.declare(QUEUE, per_user=PerUser())
            queue = await _queue(corral)
            waiting: Counter[str] = Counter()
            passed: dict[str, Counter[str]] = {}
            for kind, user, count, priority in (*steps, ("claim", "", 1_000, None)):
                if kind == "add":
                    await corral.add_jobs(QUEUE, _jobs(user, count), priority=priority)
                    if not waiting[user]:
                        passed[user] = Counter()
                    waiting[user] += count
                    continue
                for _ in range(min(count, waiting.total())):
                    record = await _claim(queue)
                    assert record is not None
                    started = queue.spec.decode_payload(record.data)["userId"]
                    waiting[started] -= 1
                    passed[started] = Counter()
                    for other in waiting:
                        if other != started and waiting[other]:
                            passed[other][started] += 1
                            assert passed[other][started] <= 2
            assert await _claim(queue) is None

    asyncio.run(play())


async def test_a_user_who_returns_is_neither_ahead_nor_behind(corral: Corral) -> None:
    corral.declare(QUEUE, per_user=PerUser())
    queue = await _queue(corral)
    await corral.add_jobs(QUEUE, [*_jobs("first", 50), *_jobs("second", 200)])
    for _ in range(150):
        await _claim(queue)
    await corral.add_jobs(QUEUE, _jobs("first", 10))
    assert [name.rstrip("0123456789") for name in (await _order(queue))[:20]] == ["second", "first"] * 10


async def test_an_empty_queue_forgets_who_was_served(corral: Corral, raw: Raw) -> None:
    corral.declare(QUEUE, per_user=PerUser())
    queue = await _queue(corral)
    await corral.add_jobs(QUEUE, _jobs("busy", 100))
    await _order(queue)
    await corral.add_job(QUEUE, {"userId": "new", "n": 0})
    assert await raw("HGETALL", f"{queue.keys.base}users:next") == {"new": str(1025 * 1024 + 5)}
    await corral.add_jobs(QUEUE, _jobs("busy", 2))
    assert await _order(queue) == ["new0", "busy0", "busy1"]


async def test_priority_orders_a_users_own_jobs_only(corral: Corral) -> None:
    corral.declare(QUEUE, per_user=PerUser())
    queue = await _queue(corral)
    await corral.add_jobs(QUEUE, _jobs("a", 4))
    await corral.add_jobs(QUEUE, _jobs("b", 3))
    urgent = await corral.add_job(QUEUE, {"userId": "a", "n": "!"}, priority=0)
    await corral.add_job(QUEUE, {"userId": "a", "n": "?"}, priority=10)
    assert (await corral.get_job_status(QUEUE, urgent.id)).priority == 0
    order = await _order(queue)
    assert [name for name in order if name[0] == "a"] == ["a!", "a0", "a1", "a2", "a3", "a?"]
    assert sorted(order[:6]) == ["a!", "a0", "a1", "b0", "b1", "b2"]


async def test_urgent_jobs_are_the_first_of_a_long_line(corral: Corral) -> None:
    """Where a line is longer than what is looked through, the place is not to the job, and none is lost."""
    corral.declare(QUEUE, per_user=PerUser())
    queue = await _queue(corral)
    await corral.add_jobs(QUEUE, _jobs("a", 2_000))
    for n in range(20):
        await corral.add_job(QUEUE, {"userId": "a", "n": f"!{n}"}, priority=1)
    order = await _order(queue)
    assert order[:16] == [f"a!{n}" for n in range(16)]
    assert [name for name in order[:64] if "!" in name] == [f"a!{n}" for n in range(20)]
    assert sorted(name for name in order if "!" not in name) == sorted(f"a{n}" for n in range(2_000))


async def test_slots_that_run_out_are_counted_anew(corral: Corral, raw: Raw) -> None:
    corral.declare(QUEUE, per_user=PerUser())
    queue = await _queue(corral)
    base = queue.keys.base
    await corral.add_jobs(QUEUE, [*_jobs("a", 1_200), *_jobs("b", 600)])
    before = [str(job) for job in await raw("ZRANGE", queue.keys.prioritized, 0, -1)]
    # Two million turns later: everything that counts in slots, moved on by the same.
    shift = 2_097_150 - 1_024 - 1_200
    for user, value in (await raw("HGETALL", f"{base}users:next")).items():
        await raw("HSET", f"{base}users:next", user, int(value) + shift * 1024)
    for job in before:
        await raw("ZINCRBY", queue.keys.prioritized, shift * 2**32, job)
    added = [job.id for job in await corral.add_jobs(QUEUE, _jobs("a", 5))]
    assert [str(job) for job in await raw("ZRANGE", queue.keys.prioritized, 0, -1)] == before + added
    _, highest = (await raw("ZRANGE", queue.keys.prioritized, -1, -1, "WITHSCORES"))[-2:]
    assert float(highest) < 10_000 * 2**32
    order = await _order(queue)
    assert order[:4] == ["a0", "b0", "a1", "b1"]
    assert order[-5:] == ["a0", "a1", "a2", "a3", "a4"]


async def test_delayed_jobs_that_come_due_together_pass_nobody(corral: Corral) -> None:
    corral.declare(QUEUE, per_user=PerUser())
    queue = await _queue(corral)
    await corral.add_jobs(QUEUE, _jobs("burst", 50), delay=timedelta(milliseconds=3))
    await corral.add_jobs(QUEUE, _jobs("other", 5))
    await asyncio.sleep(0.005)  # until they are due: nothing tells of it but a claim
    first = [await _claim(queue) for _ in range(3)]
    users = [queue.spec.decode_payload(record.data)["userId"] for record in first if record is not None]
    assert users.count("burst") <= 1
    adopted, _, _ = await Usher(queue).round()
    assert adopted >= 48
    rest = [name.rstrip("0123456789") for name in await _order(queue)]
    assert rest[:4].count("other") >= 2
    assert rest.count("burst") + users.count("burst") == 50


async def test_retries_wait_for_their_users_turn(corral: Corral) -> None:
    @corral.handler(QUEUE, concurrency=1, per_user=PerUser())
    async def turns(job: Job[Any]) -> None:
        order.append((job.data["userId"], job.attempt))
        if job.data["userId"] == "failing" and job.attempt == 1:
            raise RuntimeError("made to fail once")

    order: list[tuple[str, int]] = []
    await corral.add_jobs(QUEUE, _jobs("failing", 5), backoff=Backoff(timedelta(0)))
    jobs = await corral.add_jobs(QUEUE, _jobs("other", 5))
    async with await corral.start_workers():
        for job in jobs:
            await corral.wait_for_result(job, timeout=SOON)
        async with asyncio.timeout(10):
            while len(order) < 15:
                await asyncio.sleep(0.01)
    assert sorted(order) == sorted([("failing", 1)] * 5 + [("failing", 2)] * 5 + [("other", 1)] * 5)


async def test_jobs_of_other_producers_are_adopted(corral: Corral, raw: Raw) -> None:
    """As a client that knows nothing of turns adds them: with a priority, and with none."""
    corral.declare(QUEUE, per_user=PerUser())
    plain = Corral(corral._url, prefix=corral.prefix, settings=corral.settings, job_types=())
    plain.declare(QUEUE)
    queue = await _queue(corral)
    async with plain:
        await plain.add_jobs(QUEUE, _jobs("node", 20), priority=0)
        await plain.add_jobs(QUEUE, _jobs("node", 20), priority=7)
    await Usher(queue).round()
    await corral.add_job(QUEUE, {"userId": "mine", "n": 0})
    assert await raw("LLEN", queue.keys.wait) == 0
    order = await _order(queue)
    assert order[1] == "mine0"
    assert len(order) == 41


async def test_what_was_given_back_goes_first(corral: Corral) -> None:
    corral.declare(QUEUE, per_user=PerUser())
    queue = await _queue(corral)
    await corral.add_jobs(QUEUE, _jobs("a", 5))
    record = await _claim(queue)
    assert record is not None
    await queue.scripts.give_back(record.id, token="test")
    await corral.add_jobs(QUEUE, _jobs("b", 5))
    assert (await _order(queue))[0] == "a0"


async def test_adding_twice_takes_one_turn(corral: Corral, raw: Raw) -> None:
    corral.declare(QUEUE, per_user=PerUser(max_waiting=2))
    queue = await _queue(corral)
    for _ in range(5):
        await corral.add_job(QUEUE, {"userId": "a"}, job_id="own")
        await corral.add_job(QUEUE, {"userId": "a"}, deduplication=Deduplication("same"))
    assert await raw("HGET", f"{queue.keys.base}users:next", "a") == str(1026 * 1024 + 5)
    with pytest.raises(TooManyJobs):
        await corral.add_job(QUEUE, {"userId": "a"})


async def test_flows_and_schedules_work(corral: Corral) -> None:
    @corral.handler(QUEUE, per_user=PerUser(max_waiting=10, max_active=2))
    async def turns(job: Job[Any]) -> str:
        return str(job.data["userId"])

    await corral.add_schedule(QUEUE, "often", data={"userId": "clock"}, every=timedelta(milliseconds=30), limit=3)
    child = Flow(job_type=QUEUE, data={"userId": "a"})
    flow = await corral.add_flow(Flow(job_type=QUEUE, data={"userId": "a"}, children=[child, child]))
    async with await corral.start_workers():
        assert await corral.wait_for_result(flow, timeout=SOON) == "a"
        async with asyncio.timeout(10):
            while (await corral.get_queue_stats(QUEUE)).completed < 6:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("options", "said"), [({"lifo": True, "priority": 0}, "lifo"), ({"priority": 1_024}, "0 to 1,023")]
)
async def test_options_that_break_turns_are_refused(corral: Corral, raw: Raw, options: Any, said: str) -> None:
    corral.declare(QUEUE, per_user=PerUser())
    with pytest.raises(PayloadInvalid, match=said):
        await corral.add_job(QUEUE, {"userId": "a"}, **options)
    assert await raw("KEYS", f"{corral.prefix}:*") == []


async def test_a_queue_that_does_not_ask_keeps_nothing_of_users(corral: Corral, raw: Raw) -> None:
    corral.declare(QUEUE)
    await corral.add_jobs(QUEUE, _jobs("a", 5))
    assert await raw("KEYS", f"{corral.prefix}:*users*") == []


async def test_how_a_queue_stands_by_user(corral: Corral) -> None:
    corral.declare(QUEUE, per_user=PerUser(max_active=2))
    queue = await _queue(corral)
    await corral.add_jobs(QUEUE, [*_jobs("a", 5), *_jobs("b", 1), {"n": 1}])
    await _claim(queue)
    assert await corral.get_queue_users(QUEUE) == [
        UserShare(user_id="a", waiting=1, active=1, held=3),
        UserShare(user_id=None, waiting=1, active=0, held=0),
        UserShare(user_id="b", waiting=1, active=0, held=0),
    ]


# --- how many may wait


async def test_a_job_too_many_is_refused_and_leaves_nothing(corral: Corral, raw: Raw) -> None:
    corral.declare(QUEUE, per_user=PerUser(max_waiting=3))
    await corral.add_jobs(QUEUE, _jobs("a", 2))
    await corral.add_job(QUEUE, {"userId": "a"}, delay=timedelta(hours=1))
    before = sorted(await raw("KEYS", f"{corral.prefix}:*"))
    for options in ({}, {"delay": timedelta(hours=1)}, {"job_id": "own"}):
        with pytest.raises(TooManyJobs) as refused:
            await corral.add_job(QUEUE, {"userId": "a"}, **options)
        assert (refused.value.user_id, refused.value.limit, refused.value.job_type) == ("a", 3, QUEUE)
    assert sorted(await raw("KEYS", f"{corral.prefix}:*")) == before
    await corral.add_job(QUEUE, {"userId": "b"})
    await corral.add_jobs(QUEUE, [{"n": n} for n in range(10)])  # nobody's: no bound


async def test_a_bulk_or_flow_without_room_is_refused_as_a_whole(corral: Corral, raw: Raw) -> None:
    corral.declare(QUEUE, per_user=PerUser(max_waiting=3))
    corral.declare("other")
    with pytest.raises(TooManyJobs):
        await corral.add_jobs(QUEUE, [*_jobs("b", 2), *_jobs("a", 4), {"n": 0}])
    child = Flow(job_type=QUEUE, data={"userId": "a"})
    with pytest.raises(TooManyJobs):
        await corral.add_flow(Flow(job_type="other", data={}, children=[child] * 4))
    assert [key for key in await raw("KEYS", f"{corral.prefix}:*") if not key.endswith("refused")] == []
    await corral.add_flow(Flow(job_type="other", data={}, children=[child] * 3))
    assert (await corral.get_queue_stats(QUEUE)).waiting == 3


async def test_the_bound_is_exact_with_many_producers(corral: Corral) -> None:
    corral.declare(QUEUE, per_user=PerUser(max_waiting=10))
    others = [corral.twin() for _ in range(3)]

    async def add(one: Corral) -> bool:
        try:
            await one.add_job(QUEUE, {"userId": "a"})
        except TooManyJobs:
            return False
        return True

    try:
        added = await asyncio.gather(*(add(one) for one in (corral, *others) for _ in range(20)))
    finally:
        for other in others:
            await other.close()
    assert sum(added) == 10
    assert (await corral.get_queue_stats(QUEUE)).waiting == 10


@pytest.mark.parametrize("road", ["completed", "failed", "cancelled", "removed", "cleaned", "drained", "obliterated"])
async def test_room_comes_back_by_every_road(corral: Corral, road: str) -> None:
    corral.declare(QUEUE, per_user=PerUser(max_waiting=2))
    queue = await _queue(corral)
    ids = [job.id for job in await corral.add_jobs(QUEUE, _jobs("a", 2))]
    with pytest.raises(TooManyJobs):
        await corral.add_job(QUEUE, {"userId": "a"})
    match road:
        case "completed" | "failed":
            record = await _claim(queue)
            assert record is not None
            await _finish(queue, record.id, target=road)
        case "cancelled":
            await corral.cancel_job(QUEUE, ids[0])
        case "removed":
            await corral.remove_job(QUEUE, ids[0])
        case "cleaned":
            await asyncio.sleep(0.002)  # older than a grace of nothing
            assert await corral.clean_queue(QUEUE, 0, states=[JobState.PRIORITIZED])
        case "drained":
            await corral.drain_queue(QUEUE)
        case _:
            await queue.obliterate()
            await corral.resume_queue(QUEUE)
    await corral.add_job(QUEUE, {"userId": "a"})


async def test_any_number_of_users_is_forgotten_without_holding_up_the_server(
    corral_private_server: EmbeddedServer,
) -> None:
    async with Corral(corral_private_server.url, settings=corral_settings(), job_types=()) as corral:
        corral.declare(QUEUE, per_user=PerUser(max_waiting=2))
        corral.declare("other", per_user=PerUser(max_waiting=2))
        await corral.add_job("other", {"userId": "a"})
        queue = await _queue(corral)
        count = 20_000
        kept = b"".join(pack("HSET", f"{queue.keys.base}users:held:{number}", "n", 1) for number in range(count))
        await asyncio.gather(*queue.scripts.pipe.send_many(kept, count))
        await queue.obliterate()
        assert not await queue.scripts.pipe.execute("KEYS", f"{queue.keys.base}*")
        assert (await corral.get_queue_stats("other")).waiting == 1
    stats = corral_private_server.command("INFO", "commandstats")
    found = re.search(r"cmdstat_unlink:calls=(\d+)", stats)
    assert found is not None
    assert int(found[1]) >= count / 2_000  # SCAN may give somewhat more at once than it was asked for


# --- how many may run


async def test_no_more_of_a_users_jobs_run_than_may(corral: Corral) -> None:
    """By two workers, with retries, and jobs that come due: each is run, and no attempt is lost."""

    async def turns(job: Job[Any]) -> int:
        user = job.data["userId"]
        running[user] += 1
        highest[user] = max(highest[user], running[user])
        try:
            await asyncio.sleep(0.005)
            if job.data["n"] % 4 == 0 and job.attempt == 1:
                raise RuntimeError("made to fail once")
        finally:
            running[user] -= 1
        return job.attempt

    running: Counter[str] = Counter()
    highest: Counter[str] = Counter()
    rules = PerUser(max_active=2)
    corral.handler(QUEUE, concurrency=8, per_user=rules)(turns)
    other = corral.twin()
    options: dict[str, Any] = {"backoff": Backoff(timedelta(milliseconds=5)), "attempts": 2}
    jobs = await corral.add_jobs(QUEUE, [*_jobs("a", 30), *_jobs("b", 10)], **options)
    jobs += await corral.add_jobs(QUEUE, _jobs("a", 10), delay=timedelta(milliseconds=20), **options)
    try:
        async with await corral.start_workers(), await other.start_workers():
            attempts = [await corral.wait_for_result(job, timeout=SOON) for job in jobs]
    finally:
        await other.close()
    assert highest == {"a": 2, "b": 2}
    assert Counter(attempts) == {1: 50 - 14, 2: 14}
    stats = await corral.get_queue_stats(QUEUE)
    assert (stats.completed, stats.delayed, stats.total) == (50, 0, 50)


async def test_a_job_that_is_claimed_without_a_place_waits_without_using_an_attempt(corral: Corral, raw: Raw) -> None:
    """As a scheduled one, or one of another producer, comes to a worker."""

    @corral.handler(QUEUE, concurrency=4, per_user=PerUser(max_active=1))
    async def turns(job: Job[Any]) -> int:
        assert running == []
        running.append(job.id)
        await asyncio.sleep(0.01)
        running.clear()
        return job.attempt

    running: list[str] = []
    plain = Corral(corral._url, prefix=corral.prefix, settings=corral.settings, job_types=())
    plain.declare(QUEUE)
    async with plain:
        jobs = await plain.add_jobs(QUEUE, _jobs("a", 12), attempts=1)
    async with await corral.start_workers():
        assert [await corral.wait_for_result(job, timeout=SOON) for job in jobs] == [1] * 12


@pytest.mark.parametrize("road", ["completed", "removed", "failed"])
async def test_a_place_comes_free_by_every_road_and_worker(corral: Corral, road: str) -> None:
    """The place of a job that ended on a worker that knows nothing of places is given away by an usher's round."""
    corral.declare(QUEUE, per_user=PerUser(max_active=1))
    queue = await _queue(corral)
    await corral.add_jobs(QUEUE, _jobs("a", 3))
    record = await _claim(queue)
    assert record is not None
    assert await _claim(queue) is None
    usher = Usher(queue)
    assert (await usher.round())[1] == 1
    assert await _claim(queue) is None
    await _finish(queue, record.id, target="failed" if road == "failed" else "completed")
    if road == "removed":
        await corral.remove_job(QUEUE, record.id)
    await usher.round()
    second = await _claim(queue)
    assert second is not None
    assert queue.spec.decode_payload(second.data)["n"] == 1
    assert await _claim(queue) is None


async def test_held_jobs_can_be_cancelled_and_never_return(corral: Corral) -> None:
    corral.declare(QUEUE, per_user=PerUser(max_active=1))
    queue = await _queue(corral)
    first, second, third = await corral.add_jobs(QUEUE, _jobs("a", 3))
    assert (await corral.get_job_status(QUEUE, second.id)).state is JobState.DELAYED
    await corral.cancel_job(QUEUE, second.id)
    record = await _claim(queue)
    assert record is not None
    assert record.id == first.id
    await _finish(queue, first.id)
    await Usher(queue).round()
    record = await _claim(queue)
    assert record is not None
    assert record.id == third.id


async def test_a_worker_that_was_told_nothing_lets_held_jobs_go(corral: Corral) -> None:
    """Its definition lacks ``per_user``: what other processes held must not be held for ever."""
    corral.declare(QUEUE, per_user=PerUser(max_active=1))
    jobs = await corral.add_jobs(QUEUE, _jobs("a", 4))
    plain = Corral(corral._url, prefix=corral.prefix, settings=corral.settings, job_types=())

    @plain.handler(QUEUE)
    async def turns(job: Job[Any]) -> None:
        """Nothing to do."""

    async with plain, await plain.start_workers():
        for job in jobs:
            await plain.wait_for_result(job, timeout=timedelta(seconds=20))


_WORKER = """
    import asyncio, sys
    from datetime import timedelta
    from corral import Corral, Job, PerUser, Settings

    async def main(url, prefix):
        settings = Settings(_env_file=None, lease=timedelta(seconds=1))
        corral = Corral(url, prefix=prefix, settings=settings, job_types=())

        @corral.handler("turns", concurrency=4, per_user=PerUser(max_active=2))
        async def turns(job: Job):
            print(job.id, flush=True)
            await asyncio.sleep(600)

        async with corral, await corral.start_workers():
            await asyncio.sleep(600)

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_a_killed_workers_places_come_free(corral: Corral) -> None:
    @corral.handler(QUEUE, concurrency=4, per_user=PerUser(max_active=2))
    async def turns(job: Job[Any]) -> tuple[int, int]:
        running.append(job.id)
        highest.append(len(running))
        await asyncio.sleep(0.01)
        running.remove(job.id)
        return job.attempt, job.crashes

    running: list[str] = []
    highest: list[int] = []
    jobs = await corral.add_jobs(QUEUE, _jobs("a", 6))
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(_WORKER), str(corral._url), corral.prefix, stdout=asyncio.subprocess.PIPE
    )
    assert victim.stdout is not None
    async with asyncio.timeout(20):
        started = {(await victim.stdout.readline()).decode().strip() for _ in range(2)}
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    async with await corral.start_workers():
        results = {job.id: await corral.wait_for_result(job, timeout=timedelta(seconds=30)) for job in jobs}
    assert max(highest) <= 2
    assert {job_id for job_id, (_, crashes) in results.items() if crashes} == started
    assert {attempt for attempt, _ in results.values()} == {1}


async def test_a_final_failure_gives_its_place_away(corral: Corral) -> None:
    @corral.handler(QUEUE, concurrency=3, per_user=PerUser(max_active=1))
    async def turns(job: Job[Any]) -> None:
        raise Unrecoverable("made to fail")

    jobs = await corral.add_jobs(QUEUE, _jobs("a", 5))
    async with await corral.start_workers():
        for job in jobs:
            await until_state(corral, QUEUE, job.id, JobState.FAILED)


@pytest.mark.parametrize("bounds", [{"max_waiting": 0}, {"max_active": -1}])
def test_a_bound_is_at_least_one(bounds: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        PerUser(**bounds)
