"""The producer's half of the command protocol, for peers in Python.

The harness writes one JSON command a line to standard input and reads one JSON answer a line from standard output:

    {"op": "one", "count": N, "limit_s": s}          add N jobs, each awaited before the next; stop after ``limit_s``
    {"op": "concurrent", "count": N, "producers": P} P producers at once, each of them one at a time
    {"op": "bulk", "count": N, "chunk": C}           the peer's bulk call, C jobs a call; without one: as concurrent
    {"op": "timed", "count": N, "gap_s": [a, b], "delay_s": [a, b]}
                                                     jobs that carry when they are due; gaps and delays are random
    {"op": "ask", "count": N}                        the peer's own questions to its queue, N times each (Corral's)

Answers: ``{"seconds": s, "cpu_seconds": c, "count": done}``, ``{"unsupported": why}`` or ``{"error": what}``; to
``ask``: the median seconds of each question, by its name.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol, Self

#: What a job carries beside its number: about what a job of the four types carries.
TEXT = "Build the login page, with tests, and open a pull request for it. " * 2


class AsyncProducer(Protocol):
    """How an asyncio peer adds jobs."""

    async def open(self) -> None: ...
    async def add(self, n: int, due: float, delay_s: float) -> None: ...
    async def add_bulk(self, numbers: list[int]) -> bool:
        """Add one job for each number; False when the peer has no bulk call."""
        ...

    async def close(self) -> None: ...


class Producer(Protocol):
    """How a synchronous peer adds jobs."""

    def add(self, n: int, due: float, delay_s: float) -> None: ...
    def add_bulk(self, numbers: list[int]) -> bool: ...


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _commands() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _chunks(count: int, size: int) -> Iterator[list[int]]:
    for start in range(0, count, size):
        yield list(range(start, min(start + size, count)))


def _shares(count: int, producers: int) -> list[int]:
    """How many jobs each producer adds."""
    return [count // producers + (index < count % producers) for index in range(producers)]


class _Stopwatch:
    """Times a command, counts its jobs, and says when it has gone on long enough."""

    def __init__(self, command: dict[str, Any]) -> None:
        self._limit_s = command.get("limit_s", float("inf"))
        self.count = 0

    def __enter__(self) -> Self:
        self._cpu = time.process_time()
        self._start = time.perf_counter()
        return self

    def go_on(self) -> bool:
        """Count a job about to be added; False when time is up."""
        if time.perf_counter() - self._start > self._limit_s:
            return False
        self.count += 1
        return True

    def __exit__(self, *_: object) -> None:
        self.answer = {
            "seconds": time.perf_counter() - self._start,
            "cpu_seconds": time.process_time() - self._cpu,
            "count": self.count,
        }


async def _many(producer: AsyncProducer, shares: list[int], watch: _Stopwatch) -> None:
    async def one(share: int) -> None:
        for n in range(share):
            if not watch.go_on():
                return
            await producer.add(n, 0.0, 0.0)

    await asyncio.gather(*map(one, shares))


async def _run_async(producer: AsyncProducer, command: dict[str, Any]) -> dict[str, Any]:
    count = command["count"]
    op = command["op"]
    if op == "ask":
        ask: Callable[[int], Awaitable[dict[str, float]]] | None = getattr(producer, "ask", None)
        return {"unsupported": "asks nothing"} if ask is None else await ask(count)
    if op == "timed":
        for n in range(count):
            await asyncio.sleep(random.uniform(*command["gap_s"]))
            delay_s = random.uniform(*command["delay_s"])
            await producer.add(n, time.monotonic() + delay_s, delay_s)
        return {}
    with _Stopwatch(command) as watch:
        if op == "one":
            await _many(producer, [count], watch)
        elif op == "concurrent":
            await _many(producer, _shares(count, command["producers"]), watch)
        else:
            for numbers in _chunks(count, command["chunk"]):
                if not await producer.add_bulk(numbers):
                    if not command.get("any_way"):
                        return {"unsupported": "no bulk call"}
                    await _many(producer, _shares(count, 100), watch)
                    break
                watch.count += len(numbers)
    return watch.answer


async def _serve_async(producer: AsyncProducer) -> None:
    await producer.open()
    loop = asyncio.get_running_loop()
    commands = _commands()
    while (command := await loop.run_in_executor(None, next, commands, None)) is not None:
        try:
            _answer(await _run_async(producer, command))
        except Exception as error:  # noqa: BLE001 - the harness reports it and goes on with the next peer
            _answer({"error": f"{type(error).__name__}: {error}"})
    await producer.close()


def _many_threads(producer: Producer, shares: list[int], watch: _Stopwatch) -> None:
    def one(share: int) -> None:
        for n in range(share):
            if not watch.go_on():
                return
            producer.add(n, 0.0, 0.0)

    threads = [threading.Thread(target=one, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _run(producer: Producer, command: dict[str, Any]) -> dict[str, Any]:
    count = command["count"]
    op = command["op"]
    if op == "timed":
        for n in range(count):
            time.sleep(random.uniform(*command["gap_s"]))
            delay_s = random.uniform(*command["delay_s"])
            producer.add(n, time.monotonic() + delay_s, delay_s)
        return {}
    with _Stopwatch(command) as watch:
        if op == "one":
            _many_threads(producer, [count], watch)
        elif op == "concurrent":
            _many_threads(producer, _shares(count, command["producers"]), watch)
        else:
            for numbers in _chunks(count, command["chunk"]):
                if not producer.add_bulk(numbers):
                    if not command.get("any_way"):
                        return {"unsupported": "no bulk call"}
                    _many_threads(producer, [count], watch)
                    break
                watch.count += len(numbers)
    return watch.answer


def _serve(producer: Producer) -> None:
    for command in _commands():
        try:
            _answer(_run(producer, command))
        except Exception as error:  # noqa: BLE001 - the harness reports it and goes on with the next peer
            _answer({"error": f"{type(error).__name__}: {error}"})


def main(producer: Callable[[], AsyncProducer | Producer], worker: Callable[[], None]) -> None:
    """Be the producer or the worker, as the first argument says."""
    if sys.argv[1] == "worker":
        worker()
        return
    made = producer()
    if hasattr(made, "open"):
        asyncio.run(_serve_async(made))  # type: ignore[arg-type]
    else:
        _serve(made)  # type: ignore[arg-type]
    sys.stdout.flush()
    os._exit(0)  # clients' own background threads need no farewell
