"""``python -m benchmarks.queue.fairness``: what a queue costs whose users take turns, beside the plain one.

Each round adds and drains the same jobs in both kinds of queue, in changing order, on one server: added one by one by
many producers at once, added in bulk, drained by Corral's worker and by Node's. Jobs do nothing, so that the queue is
all that is measured. What counts is enqueue and drain together; the bar is 15 %.

Then one user's 1,000 jobs wait, another adds one, and it is counted how many of the first user's start before it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.queue import environments, server
from corral import Corral, Job, PerUser, Settings

_TEXT = "Build the login page, with tests, and open a pull request for it. " * 2
_KINDS = ("plain", "shared")
_NODE_WORKER = Path(__file__).with_name("fairness_worker.mjs")
_PACKAGES = Path(__file__).parents[2] / "tests" / "node" / "node_modules"


@dataclass(frozen=True)
class Figure:
    """Seconds by the clock, of the server's processor, and of the clients'."""

    wall_s: float
    server_s: float
    client_s: float


def _client_seconds() -> float:
    """Processor time of this process, and of Node's workers that have ended."""
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def _payload(n: int, users: int) -> dict[str, Any]:
    return {"userId": f"user-{n * 7919 % users}", "n": n, "text": _TEXT}


class Bench:
    """One client with both kinds of queue."""

    def __init__(self, corral: Corral, url: str, redis: Any, arguments: argparse.Namespace) -> None:
        self._corral = corral
        self._url = url
        self._redis = redis
        self._arguments = arguments
        self._handled: list[str] = []
        self._until = 0
        self._done = asyncio.Event()
        for kind in _KINDS:
            corral.handler(kind, per_user=PerUser() if kind == "shared" else None)(self._handle)

    async def _handle(self, job: Job[Any]) -> None:
        self._handled.append(job.data["userId"])
        if len(self._handled) == self._until:
            self._done.set()

    async def _timed(self, work: Any) -> Figure:
        before, client_before, start = server.cpu_seconds(self._redis), _client_seconds(), time.perf_counter()
        await work
        wall_s = time.perf_counter() - start
        return Figure(wall_s, server.cpu_seconds(self._redis) - before, _client_seconds() - client_before)

    async def _add_one_by_one(self, kind: str) -> None:
        jobs, users, producers = self._arguments.jobs, self._arguments.users, 50

        async def some(first: int) -> None:
            for n in range(first, jobs, producers):
                await self._corral.add_job(kind, _payload(n, users))

        await asyncio.gather(*(some(first) for first in range(producers)))

    async def _add_in_bulk(self, kind: str) -> None:
        jobs, users = self._arguments.jobs, self._arguments.users
        for start in range(0, jobs, 500):
            await self._corral.add_jobs(kind, [_payload(n, users) for n in range(start, min(jobs, start + 500))])

    def _expect(self, count: int) -> None:
        self._handled.clear()
        self._until = count
        self._done.clear()

    async def _drain_here(self, kind: str) -> None:
        self._expect(self._arguments.jobs)
        async with await self._corral.start_workers([kind], concurrency=self._arguments.concurrency):
            await self._done.wait()

    async def _node(self, kind: str, count: int, concurrency: int) -> list[str]:
        config = {
            "redis": self._url,
            "prefix": self._corral.prefix,
            "queue": kind,
            "count": count,
            "concurrency": concurrency,
            "packages": str(_PACKAGES),
        }
        process = await asyncio.create_subprocess_exec(
            environments.node(), str(_NODE_WORKER), json.dumps(config), stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        if process.returncode:
            raise SystemExit(f"Node's worker ended with {process.returncode}")
        found: list[str] = json.loads(out)
        return found

    async def _drain_in_node(self, kind: str) -> None:
        await self._node(kind, self._arguments.jobs, self._arguments.concurrency)

    async def round(self, number: int) -> dict[str, dict[str, Figure]]:
        """All steps once for each kind: figures by step, then kind."""
        figures: dict[str, dict[str, Figure]] = {}
        order = _KINDS if number % 2 == 0 else _KINDS[::-1]
        for kind in order:
            self._redis.flushdb()
            figures.setdefault("add", {})[kind] = await self._timed(self._add_one_by_one(kind))
            figures.setdefault("drain", {})[kind] = await self._timed(self._drain_here(kind))
            self._redis.flushdb()
            figures.setdefault("add in bulk", {})[kind] = await self._timed(self._add_in_bulk(kind))
            if not self._arguments.no_node:
                figures.setdefault("drain in Node", {})[kind] = await self._timed(self._drain_in_node(kind))
        return figures

    async def passed_by(self, language: str, lanes: int) -> int:
        """How many of one user's 1,000 waiting jobs start before another's, which is added last."""
        self._redis.flushdb()
        await self._corral.add_jobs("shared", [{"userId": "many", "n": n, "text": ""} for n in range(1_000)])
        await self._corral.add_job("shared", {"userId": "one", "n": 0, "text": ""})
        if language == "Node":
            return (await self._node("shared", 1_001, lanes)).index("one")
        self._expect(1_001)
        async with await self._corral.start_workers(["shared"], concurrency=lanes):
            await self._done.wait()
        return self._handled.index("one")


def _lines(rounds: list[dict[str, dict[str, Figure]]], jobs: int) -> Iterator[str]:
    yield (
        "| step | plain, jobs/s | shared | ratio | server's µs a job, plain | shared "
        "| all processor µs a job, plain | shared | ratio |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    together = {"add and drain": ("add", "drain"), "add in bulk, drain in Node": ("add in bulk", "drain in Node")}
    steps = {**{name: (name,) for name in rounds[0]}, **together}
    for name, parts in steps.items():
        if any(part not in rounds[0] for part in parts):
            continue
        wall = {kind: [sum(one[part][kind].wall_s for part in parts) for one in rounds] for kind in _KINDS}
        of_server = {kind: [sum(one[part][kind].server_s for part in parts) for one in rounds] for kind in _KINDS}
        of_all = {
            kind: [sum(one[part][kind].server_s + one[part][kind].client_s for part in parts) for one in rounds]
            for kind in _KINDS
        }

        def ratio(seconds: dict[str, list[float]]) -> float:
            return statistics.median(p / s for p, s in zip(seconds["plain"], seconds["shared"], strict=True))

        rate = {kind: jobs / statistics.median(wall[kind]) for kind in _KINDS}
        each = {kind: statistics.median(of_server[kind]) / jobs * 1e6 for kind in _KINDS}
        whole = {kind: statistics.median(of_all[kind]) / jobs * 1e6 for kind in _KINDS}
        yield (
            f"| {name} | {rate['plain']:,.0f} | {rate['shared']:,.0f} | {ratio(wall):.2f} | {each['plain']:.0f} "
            f"| {each['shared']:.0f} | {whole['plain']:.0f} | {whole['shared']:.0f} | {ratio(of_all):.2f} |"
        )


async def _measure(arguments: argparse.Namespace) -> None:
    with server.server(arguments.redis_url, append_only=False, program=arguments.server) as (url, redis):
        settings = Settings(_env_file=None)
        async with Corral(url, prefix="fairness", settings=settings, job_types=()) as corral:
            bench = Bench(corral, url, redis, arguments)
            rounds = []
            for number in range(arguments.rounds + 1):
                figures = await bench.round(number)
                if number:  # the first warms up
                    rounds.append(figures)
                print(f"round {number} of {arguments.rounds}", file=sys.stderr, flush=True)
            print(
                f"{server.describe(redis)}; {os.cpu_count()} cores; {arguments.jobs:,} jobs of {arguments.users} users"
            )
            print("\n".join(_lines(rounds, arguments.jobs)))
            for language in ("Corral",) if arguments.no_node else ("Corral", "Node"):
                for lanes in (1, 5, 20):
                    passed = await bench.passed_by(language, lanes)
                    print(f"{language}, {lanes} lanes: {passed} of one user's 1,000 jobs start before the other's next")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue.fairness", description=__doc__)
    parser.add_argument("--redis-url", help="a server with an empty database; without it one is started on loopback")
    parser.add_argument("--server", help="program of the server to start, for example valkey-server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=20)
    parser.add_argument("--no-node", action="store_true", help="leave Node's worker out")
    asyncio.run(_measure(parser.parse_args()))


if __name__ == "__main__":
    main()
