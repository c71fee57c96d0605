"""The measurements, one function each; every one leaves an empty database."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.queue import server
from benchmarks.queue.processes import PeerFailed, Process, Stage, Unsupported
from benchmarks.queue.registry import Peer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is done; the same for every peer."""

    jobs: int = 30_000
    #: Jobs before the clock starts, in every measurement of a rate.
    warm_up: int = 3_000
    adds_one: int = 4_000
    adds_many: int = 20_000
    producers: int = 100
    chunk: int = 1_000
    timed: int = 300
    delayed: int = 200
    #: A drain that takes longer is stopped; its rate is over what was done.
    limit_s: float = 30.0
    #: The tally's step.
    every: int = 250


@dataclass
class Figures:
    """What one peer did in one round: values by name, and notes on what it could not do."""

    values: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


#: A worker's program has this long to start and handle its first jobs; it is not measured.
_START_S = 60.0


def _fill(stage: Stage, count: int, chunk: int) -> None:
    with stage.process("producer") as producer:
        producer.command(op="bulk", count=count, chunk=chunk, any_way=True)


def enqueue(stage: Stage, redis: Any, plan: Plan, figures: Figures) -> None:
    """Adds a second: one at a time, many producers, in bulk."""
    sizes = {"one": plan.adds_one, "concurrent": plan.adds_many, "bulk": plan.adds_many}
    with stage.process("producer") as producer:
        for op, count in sizes.items():
            command: dict[str, Any] = {
                "op": op,
                "producers": plan.producers,
                "chunk": plan.chunk,
                "limit_s": plan.limit_s / 3,
            }
            try:
                producer.command(count=max(plan.producers, count // 10), **command)
                redis.flushdb()
                server_before = server.cpu_seconds(redis)
                answer = producer.command(count=count, **command)
            except Unsupported as why:
                figures.notes[f"enqueue {op}"] = str(why)
                continue
            done = answer["count"]
            if done < count:
                figures.notes[f"enqueue {op}"] = f"stopped after {done} jobs"
            figures.values[f"enqueue {op}"] = done / answer["seconds"]
            figures.values[f"enqueue {op} client µs"] = answer["cpu_seconds"] / done * 1e6
            figures.values[f"enqueue {op} server µs"] = (server.cpu_seconds(redis) - server_before) / done * 1e6
            redis.flushdb()


@dataclass(frozen=True)
class _Mark:
    n: int
    t: float
    worker_cpu: float
    server_cpu: float


class _Marks:
    """The tally's marks of one worker, with processor times read as each arrives."""

    def __init__(self, stage: Stage, worker: Process, redis: Any) -> None:
        self._stage = stage
        self._worker = worker
        self._redis = redis
        self._by_pid: dict[int, int] = {}
        self._t = 0.0
        self.done = 0

    def wait(self, until: int, deadline: float) -> _Mark:
        """The first mark at or past ``until`` jobs, or the last one before ``deadline``, of which there must be one."""
        t = self._t
        while self.done < until:
            news = self._stage.news.next(min(1.0, deadline - time.monotonic()))
            if news is None:
                self._worker.check()
                if time.monotonic() >= deadline:
                    if t:
                        break
                    raise PeerFailed(f"only {self.done} of {until} jobs handled in time: {self._worker.log_tail()}")
                continue
            if "n" in news:
                self._by_pid[news["pid"]] = news["n"]
                self.done = sum(self._by_pid.values())
                t = self._t = news["t"]
        return _Mark(self.done, t, self._worker.cpu_seconds(), server.cpu_seconds(self._redis))


def _verify(peer: Peer, redis: Any, handled: int, allowance: int) -> None:
    """Every handled job must be recorded in Redis.

    Raises:
        PeerFailed: Fewer are recorded than were handled, less those that may be on their way.
    """
    deadline = time.monotonic() + 10
    while (recorded := peer.recorded(redis)) < handled - allowance:
        if time.monotonic() > deadline:
            raise PeerFailed(f"handled {handled} jobs but only {recorded} completions are recorded in Redis")
        time.sleep(0.05)


def drain(stage: Stage, redis: Any, plan: Plan, figures: Figures, *, peer: Peer, concurrency: int) -> None:
    """Jobs a second that one worker process completes, when they all wait already."""
    name = f"drain {concurrency}"
    if peer.most_at_once is not None and concurrency > peer.most_at_once:
        figures.notes[name] = f"{peer.most_at_once} at a time by design"
        return
    total = plan.warm_up + plan.jobs
    _fill(stage, total, plan.chunk)
    stage.news.clear()
    with stage.process("worker", concurrency) as worker:
        marks = _Marks(stage, worker, redis)
        marks.wait(1, time.monotonic() + _START_S)
        first = marks.wait(plan.warm_up, time.monotonic() + plan.limit_s / 2)
        last = marks.wait(total, time.monotonic() + plan.limit_s)
        done = last.n - first.n
        if last.n >= total:
            _verify(peer, redis, total, 0)
    if last.n < total:
        _verify(peer, redis, last.n, concurrency)
        figures.notes[name] = f"stopped after {done} jobs"
    if not done:
        raise PeerFailed(f"nothing more handled after {first.n} jobs")
    figures.values[name] = done / (last.t - first.t)
    figures.values[f"{name} worker µs"] = (last.worker_cpu - first.worker_cpu) / done * 1e6
    figures.values[f"{name} server µs"] = (last.server_cpu - first.server_cpu) / done * 1e6
    redis.flushdb()


def _latenesses(stage: Stage, worker: Process, count: int, timeout_s: float) -> list[float]:
    late: list[float] = []
    deadline = time.monotonic() + timeout_s
    while len(late) < count:
        news = stage.news.next(1.0)
        if news is not None and "late" in news:
            late.append(news["late"])
        elif time.monotonic() > deadline:
            raise PeerFailed(f"only {len(late)} of {count} timed jobs started: {worker.log_tail()}")
        else:
            worker.check()
    return late


def timed(stage: Stage, redis: Any, plan: Plan, figures: Figures, *, peer: Peer) -> None:
    """How late an idle worker (concurrency 5) starts a job: added now, and due later."""
    stage.news.clear()
    with stage.process("worker", 5) as worker, stage.process("producer") as producer:
        producer.command(op="timed", count=20, gap_s=[0.01, 0.02], delay_s=[0, 0])
        _latenesses(stage, worker, 20, 40)
        producer.command(op="timed", count=plan.timed, gap_s=[0.005, 0.025], delay_s=[0, 0])
        figures.samples["pickup"] = _latenesses(stage, worker, plan.timed, 30)
        if peer.no_delays is not None:
            figures.notes["delayed"] = peer.no_delays
        else:
            producer.command(op="timed", count=plan.delayed, gap_s=[0, 0.002], delay_s=[0.5, 3.5])
            figures.samples["delayed"] = _latenesses(stage, worker, plan.delayed, 40)
    redis.flushdb()


def depth(stage: Stage, redis: Any, plan: Plan, figures: Figures, *, jobs: int, waiting: int) -> None:
    """The drain rate of ``jobs`` jobs, 50 at once, while ``waiting`` more wait behind them, and its answers' times."""
    with stage.process("producer") as producer:
        producer.command(op="bulk", count=plan.warm_up + jobs + waiting, chunk=plan.chunk)
        for question, seconds in producer.command(op="ask", count=100).items():
            figures.values[f"asked {waiting} {question}"] = seconds * 1e3
    stage.news.clear()
    with stage.process("worker", 50) as worker:
        marks = _Marks(stage, worker, redis)
        first = marks.wait(plan.warm_up, time.monotonic() + plan.limit_s)
        last = marks.wait(plan.warm_up + jobs, time.monotonic() + plan.limit_s)
    done = last.n - first.n
    figures.values[f"depth {waiting}"] = done / (last.t - first.t)
    figures.values[f"depth {waiting} server µs"] = (last.server_cpu - first.server_cpu) / done * 1e6
    redis.flushdb()


def memory(stage: Stage, redis: Any, plan: Plan, figures: Figures, *, jobs: int) -> None:
    """Resident memory of a worker, 50 at once, over many jobs, in MiB, at tenths of the way."""
    _fill(stage, jobs, plan.chunk)
    stage.news.clear()
    with stage.process("worker", 50) as worker:
        marks = _Marks(stage, worker, redis)
        for tenth in range(1, 11):
            marks.wait(jobs * tenth // 10, time.monotonic() + 120)
            figures.values[f"memory {tenth * 10}%"] = worker.resident_bytes() / 2**20
    redis.flushdb()


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of the others do not exceed, without interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)
