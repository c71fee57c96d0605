"""``corral.sync`` on a real server: from threads, across forks, and interrupted."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from corral import Corral, Job, JobNotFound, JobState, JobType, PayloadInvalid, Settings, sync
from corral.errors import ConfigurationError, ResultTimedOut, StoreUnavailable
from corral.testing import EmbeddedServer
from corral.testing.pytest_plugin import corral_prefix, corral_server
from corral.testing.server import free_port

__all__ = ["corral_prefix", "corral_server"]


def make(url: str, prefix: str) -> Corral:
    corral = Corral(settings=Settings(_env_file=None, redis_url=url, prefix=prefix))

    @corral.handler("double")
    async def double(job: Job[int]) -> int:
        await job.log("doubling")
        return job.data * 2

    return corral


@pytest.fixture
def corral(corral_server: EmbeddedServer, corral_prefix: str) -> Iterator[Corral]:
    """A Corral whose workers run in an event loop of another thread."""
    corral = make(corral_server.url, corral_prefix)
    ready, stop, loops = threading.Event(), asyncio.Event(), []

    async def work() -> None:
        loops.append(asyncio.get_running_loop())
        async with corral:
            await corral.start_workers()
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert ready.wait(20)
    yield corral
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(20)
    assert not thread.is_alive()


def test_a_job_from_end_to_end(corral: Corral) -> None:
    with sync.SyncCorral(corral) as blocking:
        job = blocking.add_job("double", 21, priority=0)
        assert blocking.wait_for_result(job, timeout=timedelta(seconds=20)) == 42
        assert blocking.get_job_status("double", job.id).state is JobState.COMPLETED
        assert blocking.get_job_logs("double", job.id).lines == ("doubling",)
        more = blocking.add_jobs("double", [1, 2, 3])
        assert [blocking.wait_for_result(one, timeout=timedelta(seconds=20)) for one in more] == [2, 4, 6]
        assert blocking.get_queue_stats("double").completed == 4
        blocking.pause_queue("double")
        assert blocking.get_queue_stats("double").paused
        late = blocking.add_job("double", 1)
        with pytest.raises(ResultTimedOut):
            blocking.wait_for_result(late, timeout=timedelta(milliseconds=20))
        blocking.cancel_job("double", late.id)
        with pytest.raises(JobNotFound):
            blocking.get_job_status("double", late.id)
        blocking.resume_queue("double")
        assert len(blocking.clean_queue("double", 0)) == 4
        with pytest.raises(PayloadInvalid):
            blocking.add_job("double", "no number")


def test_events_are_an_iterator(corral: Corral) -> None:
    blocking = sync.SyncCorral(corral)
    job = blocking.add_job("double", 4)
    events = blocking.events("double", after="0")
    names = []
    for event in events:
        if event.job_id == job.id:
            names.append(event.name)
        if event.name == "completed":
            break
    events.close()
    assert names[0] == "added"
    assert names[-1] == "completed"
    blocking.close()
    blocking.close()  # twice is once


def test_many_threads_share_it(corral: Corral) -> None:
    with sync.SyncCorral(corral) as blocking, ThreadPoolExecutor(16) as threads:

        def run(number: int) -> Any:
            return blocking.wait_for_result(blocking.add_job("double", number), timeout=timedelta(seconds=20))

        assert list(threads.map(run, range(100))) == [2 * number for number in range(100)]


async def test_it_is_refused_where_it_would_block_the_event_loop() -> None:
    with pytest.raises(ConfigurationError, match="await the same method"):
        sync.SyncCorral(make("redis://127.0.0.1:1", "x")).get_queue_stats("double")


def test_errors_are_the_same() -> None:
    blocking = sync.SyncCorral(f"redis://127.0.0.1:{free_port()}")
    blocking.declare("double", payload=int)
    with pytest.raises(StoreUnavailable):
        blocking.add_job("double", 1)
    with pytest.raises(ConfigurationError, match="port"):
        sync.SyncCorral("redis://127.0.0.1:no")
    blocking.close()


def test_a_type_declared_later_is_known(corral_server: EmbeddedServer, corral_prefix: str) -> None:
    corral = Corral(corral_server.url, prefix=corral_prefix)
    with sync.SyncCorral(corral) as blocking:
        corral.declare("late")
        blocking.declare("later", payload=int)
        assert blocking.add_job("late", {}).id == blocking.add_job("later", 3).id == "1"


def test_the_functions_use_one_instance_with_the_four_types(
    corral_server: EmbeddedServer, corral_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", corral_server.url)
    monkeypatch.setenv("CORRAL_PREFIX", corral_prefix)
    sync.default.cache_clear()
    try:
        job = sync.add_job(JobType.CODEBASE_INDEXING, {"projectId": "p", "userId": "u", "fullReindex": True})
        assert sync.get_job_status(JobType.CODEBASE_INDEXING, job.id).user_id == "u"
        assert [sync.get_queue_stats(job_type).waiting for job_type in JobType] == [0, 0, 0, 1]
    finally:
        sync.disconnect_redis()
        sync.default.cache_clear()


#: What ``SyncCorral`` leaves out: whatever has to do with running workers, and what is written anew there.
NOT_FOR_PRODUCERS = {
    *("start_workers", "stop_workers", "start_ushers"),
    *("disconnect", "close", "connect", "execute_command"),
}


def test_nothing_that_producers_and_managers_need_is_missing() -> None:
    wanted = {
        name
        for name, method in vars(Corral).items()
        if not name.startswith("_") and (inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method))
    } - NOT_FOR_PRODUCERS
    assert {name for name in wanted if not hasattr(sync.SyncCorral, name)} == set()
    assert {name for name in wanted if not hasattr(sync, name)} == set()
    for name in wanted - {"events"}:
        expected = inspect.signature(getattr(Corral, name))
        assert inspect.signature(getattr(sync.SyncCorral, name)) == expected
        assert (getattr(sync, name).__doc__ or "").strip()


PROGRAM = """
import os, sys, warnings
from corral import Corral, sync
corral = sync.SyncCorral(sys.argv[1], prefix=sys.argv[2])
corral.declare("forked", payload=int)
corral.add_job("forked", 1)
child = os.fork()
for number in range(5):
    corral.add_job("forked", number)
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(corral.get_queue_stats("forked").waiting)
"""


def run(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "always::ResourceWarning", "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "src"},
    )


def test_both_sides_of_a_fork_can_use_it(corral_server: EmbeddedServer, corral_prefix: str) -> None:
    out, errors = (process := run(PROGRAM, corral_server.url, corral_prefix)).communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "11\n", "")


WAITING_PROGRAM = """
import sys
from corral import sync
corral = sync.SyncCorral(sys.argv[1], prefix=sys.argv[2])
corral.declare("never")
job = corral.add_job("never", {})
try:
    print("waiting", flush=True)
    corral.wait_for_result(job)
except KeyboardInterrupt:
    print("interrupted", corral.get_job_status("never", job.id).state)
"""


def test_ctrl_c_ends_a_wait(corral_server: EmbeddedServer, corral_prefix: str) -> None:
    process = run(WAITING_PROGRAM, corral_server.url, corral_prefix)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (0, "interrupted prioritized\n", "")
