"""Running: every way in which a handler can end leaves a recorded outcome, and the worker goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from tests.integration.queue.conftest import SOON, until_state

from corral import (
    Backoff,
    Corral,
    Flow,
    Job,
    JobCancelled,
    JobFailed,
    JobState,
    RateLimited,
    ThreadJob,
    Unrecoverable,
)
from corral.errors import AdapterError
from corral.queue.retry import failed_attempt

Raw = Callable[..., Awaitable[Any]]


class Question(BaseModel):
    number: int


class Answer(BaseModel):
    number: int


async def test_progress_logs_result_and_times(corral: Corral) -> None:
    @corral.handler("double")
    async def double(job: Job[Question]) -> Answer:
        await job.progress(25)
        await job.progress({"percent": 50, "stage": "thinking"})
        await job.log("one", "two")
        assert job.attempt == 1
        return Answer(number=2 * job.data.number)

    async with await corral.start_workers():
        job = await corral.add_job("double", {"number": 21})
        assert await corral.wait_for_result(job, timeout=SOON) == Answer(number=42)
    status = await corral.get_job_status("double", job.id)
    assert status.state is JobState.COMPLETED
    assert status.result == Answer(number=42)
    assert (status.progress, status.progress_detail) == (100, {"percent": 50, "stage": "thinking"})
    assert (status.attempts, status.error, status.crashes) == (1, None, 0)
    assert status.created_at is not None
    assert status.started_at is not None
    assert status.finished_at is not None
    assert status.created_at <= status.started_at <= status.finished_at
    logs = await corral.get_job_logs("double", job.id, offset=1)
    assert (logs.lines, logs.total) == (("two",), 2)
    metrics = await corral.get_metrics("double")
    assert metrics.count == 1


async def test_a_failure_is_retried_with_back_off_and_keeps_each_trace(corral: Corral) -> None:
    started: list[float] = []

    @corral.handler("flaky", backoff=Backoff(timedelta(milliseconds=80)), attempts=3)
    async def flaky(job: Job[Any]) -> str:
        started.append(time.monotonic())
        if job.attempt < 3:
            raise ValueError(f"attempt {job.attempt}")
        return f"attempt {job.attempt} of {job.max_attempts}"

    async with await corral.start_workers():
        job = await corral.add_job("flaky", None)
        assert await corral.wait_for_result(job, timeout=SOON) == "attempt 3 of 3"
    status = await corral.get_job_status("flaky", job.id)
    assert status.attempts == 3
    failures = [failed_attempt(trace) for trace in status.stacktrace]
    assert [one.number for one in failures] == [1, 2]
    assert ["ValueError: attempt 1" in failures[0].trace, "ValueError: attempt 2" in failures[1].trace] == [True, True]
    first, second = (one.at for one in failures)
    assert first is not None
    assert second is not None
    assert status.created_at is not None
    assert status.finished_at is not None
    assert status.created_at <= first < second <= status.finished_at
    assert started[1] - started[0] >= 0.08
    assert started[2] - started[1] >= 0.16


@pytest.mark.parametrize("isolation", ["async", "thread", "process"])
async def test_a_handler_is_told_what_an_earlier_start_of_its_job_reported(corral: Corral, isolation: Any) -> None:
    corral.handler("told", attempts=2, isolation=isolation)(_HANDLERS[isolation])
    async with await corral.start_workers():
        job = await corral.add_job("told", None)
        assert await corral.wait_for_result(job, timeout=SOON) == [2, {"percent": 40, "stage": "half"}]
        await corral.retry_job("told", job.id)
        # By somebody's wish: it is started for the first time again, and so fails again.
        await until_state(corral, "told", job.id, JobState.COMPLETED)
    status = await corral.get_job_status("told", job.id)
    assert (status.attempts, len(status.stacktrace)) == (2, 2)


async def _told(job: Job[Any]) -> list[Any]:
    if job.starts == 1:
        await job.progress({"percent": 40, "stage": "half"})
        raise ValueError("once more")
    return [job.starts, job.reported]


def _told_in_a_thread(job: ThreadJob[Any]) -> list[Any]:
    if job.starts == 1:
        job.progress_now({"percent": 40, "stage": "half"})
        raise ValueError("once more")
    return [job.starts, job.reported]


_HANDLERS: dict[str, Any] = {"async": _told, "thread": _told_in_a_thread, "process": _told}


@pytest.mark.parametrize(
    "error",
    [
        Unrecoverable("no way", reason="hopeless"),
        AdapterError("no way", service="x", operation="y", retryable=False, reason="hopeless"),
    ],
)
async def test_what_can_not_be_mended_is_not_retried(corral: Corral, error: Exception) -> None:
    @corral.handler("hopeless", attempts=3)
    async def hopeless(_: Job[Any]) -> None:
        raise error

    async with await corral.start_workers():
        job = await corral.add_job("hopeless", None)
        with pytest.raises(JobFailed, match="hopeless: no way"):
            await corral.wait_for_result(job, timeout=SOON)
    assert (await corral.get_job_status("hopeless", job.id)).attempts == 1


@pytest.mark.parametrize(
    "error",
    [
        RateLimited("slow down", retry_after=timedelta(milliseconds=300)),
        AdapterError("slow down", service="x", operation="y", retryable=True, retry_after=timedelta(milliseconds=300)),
    ],
)
async def test_a_service_that_asks_for_rest_pauses_the_queue_and_costs_no_attempt(
    corral: Corral, error: Exception
) -> None:
    started: list[tuple[str, float]] = []

    @corral.handler("busy", concurrency=1)
    async def busy(job: Job[Any]) -> int:
        started.append((job.id, time.monotonic()))
        if len(started) == 1:
            raise error
        return job.attempt

    first = await corral.add_job("busy", None)
    second = await corral.add_job("busy", None)
    async with await corral.start_workers():
        assert await corral.wait_for_result(first, timeout=SOON) == 1
        assert await corral.wait_for_result(second, timeout=SOON) == 1
    assert [job_id for job_id, _ in started] == [first.id, first.id, second.id]
    assert started[1][1] - started[0][1] >= 0.28


async def test_bad_jobs_fail_alone_once_and_clearly(corral: Corral, raw: Raw) -> None:
    @corral.handler("strict", attempts=3)
    async def strict(job: Job[Question]) -> Any:
        return object() if job.data.number == 0 else job.data.number

    add = await corral._queue("strict")
    k = add.keys

    async def plant(job_id: str, name: str, data: str) -> None:
        await raw("HSET", k.job(job_id), "name", name, "data", data, "opts", '{"attempts":3}', "timestamp", 1)
        await raw("LPUSH", k.wait, job_id)

    await plant("broken-json", "strict", '{"number": 1')
    await plant("bad-payload", "strict", '{"number": "many"}')
    await plant("wrong-name", "stricter", '{"number": 1}')
    await plant("too-large", "strict", json.dumps({"number": 1, "more": "x" * 10_000_000}))
    await plant("no-opts-at-all", "strict", '{"number": 3}')
    await raw("HDEL", k.job("no-opts-at-all"), "opts")
    no_json = await corral.add_job("strict", {"number": 0})
    good = await corral.add_job("strict", {"number": 5})
    async with await corral.start_workers():
        assert await corral.wait_for_result(good, timeout=SOON) == 5
        assert await corral.wait_for_result(("strict", "no-opts-at-all"), timeout=SOON) == 3
        for job_id, said in {
            "broken-json": "JSON",
            "bad-payload": "number: input should be a valid integer",
            "wrong-name": "stricter",
            "too-large": "too large",
            no_json.id: "no JSON form",
        }.items():
            with pytest.raises(JobFailed, match=said):
                await corral.wait_for_result(("strict", job_id), timeout=SOON)
            assert (await corral.get_job_status("strict", job_id)).attempts == 1


async def test_a_time_out_ends_the_handler_and_is_an_ordinary_failure(corral: Corral) -> None:
    cleaned_up = asyncio.Event()

    @corral.handler("slow", timeout=timedelta(milliseconds=100), attempts=1)
    async def slow(_: Job[Any]) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned_up.set()

    async with await corral.start_workers():
        job = await corral.add_job("slow", None)
        with pytest.raises(JobFailed, match=r"timed_out: took longer than 0:00:00\.1"):
            await corral.wait_for_result(job, timeout=SOON)
    assert cleaned_up.is_set()


async def test_a_handler_that_cancels_itself_fails_and_the_lane_goes_on(corral: Corral) -> None:
    @corral.handler("selfless", concurrency=1, attempts=1)
    async def selfless(job: Job[Any]) -> str:
        if job.data:
            raise asyncio.CancelledError
        return "ran"

    async with await corral.start_workers():
        bad = await corral.add_job("selfless", data=True)
        good = await corral.add_job("selfless", data=False)
        with pytest.raises(JobFailed, match="cancelled itself"):
            await corral.wait_for_result(bad, timeout=SOON)
        assert await corral.wait_for_result(good, timeout=SOON) == "ran"


async def test_an_active_job_is_cancelled_from_another_client(corral: Corral, corral_server: Any) -> None:
    running = asyncio.Event()

    @corral.handler("long", attempts=3, concurrency=1)
    async def long(_: Job[Any]) -> None:
        running.set()
        await asyncio.sleep(60)

    async with (
        await corral.start_workers(),
        Corral(corral_server.url, prefix=corral.prefix, job_types=()) as other,
    ):
        other.declare("long")
        job = await corral.add_job("long", None)
        await running.wait()
        asked = time.monotonic()
        await other.cancel_job("long", job.id, reason="superseded", by="ann")
        with pytest.raises(JobCancelled, match="cancelled by ann: superseded"):
            await corral.wait_for_result(job, timeout=SOON)
        assert time.monotonic() - asked < 1
    status = await corral.get_job_status("long", job.id)
    assert (status.state, status.cancelled) == (JobState.FAILED, True)


async def test_a_waiting_job_that_is_cancelled_is_gone_and_its_waiter_knows(corral: Corral) -> None:
    corral.declare("elsewhere")
    job = await corral.add_job("elsewhere", None, delay=timedelta(hours=1))
    waiter = asyncio.create_task(corral.wait_for_result(job, timeout=SOON))
    await asyncio.sleep(0.1)
    await corral.cancel_job("elsewhere", job.id)
    with pytest.raises(JobCancelled):
        await waiter


async def test_plain_functions_run_in_threads_beside_the_loop(corral: Corral) -> None:
    @corral.handler("blocking", concurrency=2)
    def blocking(job: ThreadJob[Question]) -> int:
        time.sleep(0.05)
        job.progress_now(50)
        job.log_now("from a thread")
        return job.data.number + 1

    async with await corral.start_workers():
        jobs = [await corral.add_job("blocking", {"number": n}) for n in range(4)]
        assert [await corral.wait_for_result(job, timeout=SOON) for job in jobs] == [1, 2, 3, 4]
    assert (await corral.get_job_logs("blocking", jobs[0].id)).lines == ("from a thread",)


async def crash(job: Job[str]) -> str:
    """What runs in a process of its own; by the payload it ends in different ways."""
    if job.data == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.data == "exit":
        os._exit(3)
    if job.data == "raise":
        raise Unrecoverable("as it is", reason="carried")
    if job.data == "sleep":
        await asyncio.sleep(60)
    await job.progress(50)
    await job.log(f"pid {os.getpid()}")
    return job.data.upper()


@pytest.mark.slow
async def test_a_crash_in_a_process_of_its_own_fails_that_one_job(corral: Corral) -> None:
    corral.handler("crashy", isolation="process", concurrency=2, attempts=1, timeout=timedelta(seconds=8))(crash)
    async with await corral.start_workers():
        jobs = {name: await corral.add_job("crashy", name) for name in ("segfault", "exit", "raise", "fine")}
        assert await corral.wait_for_result(jobs["fine"], timeout=timedelta(seconds=30)) == "FINE"
        for name, said in {"segfault": "SIGSEGV", "exit": "code 3", "raise": "carried: as it is"}.items():
            with pytest.raises(JobFailed, match=said):
                await corral.wait_for_result(jobs[name], timeout=timedelta(seconds=30))
    assert (await corral.get_job_logs("crashy", jobs["fine"].id)).lines[0] != f"pid {os.getpid()}"


@pytest.mark.slow
async def test_a_cancelled_process_is_ended(corral: Corral) -> None:
    corral.handler("crashy", isolation="process", concurrency=1, attempts=1)(crash)
    async with await corral.start_workers():
        job = await corral.add_job("crashy", "sleep")
        await until_state(corral, "crashy", job.id, JobState.ACTIVE)
        await asyncio.sleep(1.5)  # the process imports what it needs; then it sleeps
        await corral.cancel_job("crashy", job.id, reason="enough")
        with pytest.raises(JobCancelled):
            await corral.wait_for_result(job, timeout=SOON)
        again = await corral.add_job("crashy", "fine")
        assert await corral.wait_for_result(again, timeout=timedelta(seconds=30)) == "FINE"


async def test_context_variables_do_not_leak_into_the_next_job(corral: Corral) -> None:
    import contextvars  # noqa: PLC0415 - a variable of this test only

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")

    @corral.handler("leaky", concurrency=1)
    async def leaky(job: Job[Any]) -> str:
        found = variable.get()
        variable.set(f"left by {job.id}")
        return found

    async with await corral.start_workers():
        jobs = [await corral.add_job("leaky", None) for _ in range(3)]
        assert [await corral.wait_for_result(job, timeout=SOON) for job in jobs] == ["clean"] * 3


async def parent_in_loop(job: Job[Any]) -> dict[str, Any]:
    results, failures = await job.children_results(), await job.children_failures()
    return {"sum": sum(results.values()), "failures": list(failures.values())}


def parent_in_thread(job: ThreadJob[Any]) -> dict[str, Any]:
    results, failures = job.children_results_now(), job.children_failures_now()
    return {"sum": sum(results.values()), "failures": list(failures.values())}


@pytest.mark.parametrize("parent", [parent_in_loop, parent_in_thread])
async def test_a_parent_runs_after_its_children_and_sees_their_results(corral: Corral, parent: Any) -> None:
    corral.handler("parent")(parent)

    @corral.handler("child", attempts=1)
    async def child(job: Job[int]) -> int:
        if job.data < 0:
            raise ValueError("negative")
        return job.data * 10

    flow = Flow(
        job_type="parent",
        data=None,
        children=[
            Flow(job_type="child", data=1),
            Flow(job_type="child", data=2),
            Flow(job_type="child", data=-1, options={"on_failure": "ignore"}),
        ],
    )
    async with await corral.start_workers():
        added = await corral.add_flow(flow)
        result = await corral.wait_for_result(added, timeout=SOON)
    assert result == {"sum": 30, "failures": ["ValueError: negative"]}


async def test_a_failed_child_fails_its_parent_when_asked(corral: Corral) -> None:
    @corral.handler("child", attempts=1)
    async def child(_: Job[Any]) -> None:
        raise ValueError("broken")

    @corral.handler("parent")
    async def parent(_: Job[Any]) -> None:
        pytest.fail("a parent of a failed child must not run")

    flow = Flow(
        job_type="parent",
        data=None,
        children=[Flow(job_type="child", data=1, options={"on_failure": "fail_parent"})],
    )
    async with await corral.start_workers():
        added = await corral.add_flow(flow)
        with pytest.raises(JobFailed):
            await corral.wait_for_result(added, timeout=SOON)


async def test_a_schedule_makes_one_job_after_another(corral: Corral) -> None:
    ran: list[str] = []
    enough = asyncio.Event()

    @corral.handler("tick")
    async def tick(job: Job[Question]) -> None:
        ran.append(job.id)
        if len(ran) == 3:
            enough.set()

    await corral.add_schedule("tick", "often", every=timedelta(milliseconds=150), data={"number": 1})
    async with await corral.start_workers():
        async with asyncio.timeout(10):
            await enough.wait()
        (schedule,) = await corral.list_schedules("tick")
        assert (schedule.id, schedule.every_ms, schedule.data) == ("often", 150, {"number": 1})
        await corral.remove_schedule("tick", "often")
    assert len(set(ran)) == len(ran)
    assert await corral.list_schedules("tick") == []


async def test_a_limited_schedule_ends(corral: Corral) -> None:
    ran = 0

    @corral.handler("tick")
    async def tick(_: Job[Any]) -> None:
        nonlocal ran
        ran += 1

    job_id = await corral.add_schedule("tick", "twice", cron="* * * * * *", data=None, limit=2)
    async with await corral.start_workers():
        await corral.wait_for_result(("tick", job_id), timeout=SOON)
        await until_count(corral, "tick", completed=2)
        await asyncio.sleep(1.2)
    assert ran == 2


async def until_count(corral: Corral, job_type: str, *, completed: int) -> None:
    """Wait for the queue to have completed so many."""
    async with asyncio.timeout(15):
        while (await corral.get_queue_stats(job_type)).completed < completed:
            await asyncio.sleep(0.02)
