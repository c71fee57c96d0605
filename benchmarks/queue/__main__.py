"""``python -m benchmarks.queue``: see ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.queue import environments, measure, report, server
from benchmarks.queue.processes import PeerFailed, Stage, stage
from benchmarks.queue.registry import PEERS

Step = Callable[[Stage, Any, measure.Plan, measure.Figures], None]
_SECTIONS = ("enqueue", "drain", "timed", "depth", "memory")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue", description="Measure job queues on one Redis.")
    parser.add_argument("--redis-url", help="a server with an empty database; without it one is started on loopback")
    parser.add_argument("--server", help="program of the server to start, for example valkey-server")
    parser.add_argument("--append-only", action="store_true", help="the started server keeps an append-only file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=30_000, help="jobs of a drain, after the warm-up")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
    parser.add_argument("--sections", nargs="+", choices=_SECTIONS, default=list(_SECTIONS))
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 5, 50, 200])
    parser.add_argument("--limit-s", type=float, default=30.0, help="longest drain; a slower peer is stopped there")
    parser.add_argument("--depth", type=int, default=1_000_000, help="jobs that wait in the depth section")
    parser.add_argument("--memory-jobs", type=int, default=200_000)
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> measure.Plan:
    every = 250
    jobs = max(every, arguments.jobs // every * every)
    return measure.Plan(
        jobs=jobs,
        warm_up=max(every, jobs // 10 // every * every),
        adds_one=max(500, jobs // 8),
        adds_many=max(2_000, jobs // 3 * 2 // 1_000 * 1_000),
        timed=300 if jobs >= 10_000 else 100,
        delayed=200 if jobs >= 10_000 else 60,
        limit_s=arguments.limit_s,
        every=every,
    )


class _Run:
    """All rounds of one call."""

    def __init__(self, arguments: argparse.Namespace, plan: measure.Plan, url: str, redis: Any) -> None:
        self._arguments = arguments
        self._plan = plan
        self._url = url
        self._redis = redis
        self._environments = {name: environments.prepare(PEERS[name]) for name in arguments.peers}
        self.rounds: list[dict[str, measure.Figures]] = []

    def _steps(self, name: str, round_number: int) -> list[tuple[str, Step]]:
        peer, plan, arguments = PEERS[name], self._plan, self._arguments
        steps: list[tuple[str, Step]] = []
        if "enqueue" in arguments.sections:
            steps.append(("enqueue", measure.enqueue))
        if "drain" in arguments.sections:
            steps.extend(
                (f"drain {c}", partial(measure.drain, peer=peer, concurrency=c)) for c in arguments.concurrency
            )
        if "timed" in arguments.sections and not peer.plain_only:
            steps.append(("timed", partial(measure.timed, peer=peer)))
        if name == "corral" and "depth" in arguments.sections:
            jobs = min(plan.jobs, 20_000)
            depths = (10_000, arguments.depth)
            steps.extend((f"depth {d}", partial(measure.depth, jobs=jobs, waiting=d)) for d in depths)
        if name == "corral" and "memory" in arguments.sections and round_number == 0:
            steps.append(("memory", partial(measure.memory, jobs=arguments.memory_jobs)))
        return steps

    def round(self, number: int) -> None:
        """One round: step by step, each peer in turn, beginning with another one each round."""
        names = list(self._arguments.peers)
        turn = number % len(names)
        order = names[turn:] + names[:turn]
        figures = {name: measure.Figures() for name in names}
        self.rounds.append(figures)
        steps = {name: self._steps(name, number) for name in order}
        for label in dict.fromkeys(label for name in order for label, _ in steps[name]):
            for name in order:
                for step, run in steps[name]:
                    if step == label:
                        self._one(name, label, run, figures[name])

    def _one(self, name: str, label: str, run: Step, figures: measure.Figures) -> None:
        start = time.monotonic()
        self._redis.flushdb()
        with stage(self._environments[name], self._url, self._plan.every) as made:
            try:
                run(made, self._redis, self._plan, figures)
                said = figures.notes.get(label) or (
                    f"{figures.values[label]:,.0f}/s" if label in figures.values else "ok"
                )
            except PeerFailed as failure:
                figures.notes[label] = said = f"failed: {failure}"
        print(f"  {label:<14} {name:<14} {time.monotonic() - start:6.1f} s  {said}", file=sys.stderr, flush=True)
        self._redis.flushdb()


def main() -> None:
    """Measure, print the tables, write the figures."""
    arguments = _arguments()
    plan = _plan(arguments)
    with server.server(arguments.redis_url, append_only=arguments.append_only, program=arguments.server) as (
        url,
        redis,
    ):
        about = {
            "server": server.describe(redis),
            "python": platform.python_version(),
            "node": environments.node_version() if any(PEERS[name].is_node for name in arguments.peers) else None,
            "cores": os.cpu_count(),
            "load at start": round(os.getloadavg()[0], 2),
            "plan": dataclasses.asdict(plan),
        }
        run = _Run(arguments, plan, url, redis)
        try:
            for number in range(arguments.rounds):
                print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
                run.round(number)
        except KeyboardInterrupt:
            print("interrupted: reporting what was measured", file=sys.stderr)
    print(report.render(about, run.rounds))
    if arguments.json:
        rounds = [{name: dataclasses.asdict(f) for name, f in figures.items()} for figures in run.rounds]
        arguments.json.write_text(json.dumps({"about": about, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
