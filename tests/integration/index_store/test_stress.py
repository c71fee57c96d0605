"""Shared indexes under everything at once; ``INDEX_STRESS_SEED`` repeats a run, ``INDEX_STRESS_ROUNDS`` makes more.

INDEX_STRESS_ROUNDS=200 python -m pytest tests/integration/index_store/test_stress.py
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from obstore.store import MemoryStore
from tests.support.index_stress import (
    NAMES,
    REMOVED,
    Place,
    Worker,
    endanger,
    logged,
    look,
    work_in_process,
    work_in_thread,
)
from tests.support.object_server import ObjectServer

from corral.adapters.index.bucket import Bucket, open_bucket
from corral.adapters.index.shared import SharedIndexStore
from corral.adapters.index.shared_layout import Root

_ROOM = 1 << 40
_FIRST_SEED = int(os.environ.get("INDEX_STRESS_SEED", "5"))
SEEDS = range(_FIRST_SEED, _FIRST_SEED + int(os.environ.get("INDEX_STRESS_ROUNDS", "1")))


def crew(seed: int, turns: int) -> list[Worker]:
    """Three machines: one with room, one with none at all, one with a lone writer."""
    shape = [(0, True, _ROOM, 0.0), (0, True, _ROOM, 0.0), (0, False, _ROOM, 0.03), (0, False, _ROOM, 0.0)]
    shape += [(1, True, 1, 0.0), (1, False, 1, 0.0), (2, True, _ROOM, 0.0)]
    return [
        Worker(
            number,
            machine,
            turns if writes else 3 * turns,
            room,
            writes,
            mortal=writes,
            seed=seed * 1000 + number,
            refresh_s=refresh_s,
        )
        for number, (machine, writes, room, refresh_s) in enumerate(shape)
    ]


def next_of(worker: Worker, number: int) -> Worker:
    """Takes the place of one that died; after so many deaths there is an end of it."""
    return replace(worker, number=number, mortal=worker.mortal and number < 20, seed=worker.seed + 100)


def check_what_is_left(place: Place, bucket: Bucket) -> None:
    """Nothing was lost, nothing lies about once somebody has published again in peace."""
    for name in NAMES:
        machine = SharedIndexStore(bucket, place.folder / "new", refresh=timedelta(0))
        look(place, machine, name, at_least=1, gone=set())
        reader = machine.open(name)
        assert reader is not None
        assert logged(place, name).keys() <= reader.files().keys()
        reader.close()
    for name in (*NAMES, REMOVED):
        home = f"{name.project_id}/{name.branch or '@default'}"
        for number in range(3):
            again = SharedIndexStore(bucket, place.folder / f"machine-{number}", refresh=timedelta(0))
            with again.writer(name, identity="one", embedder="none", dimension=4) as writer:
                writer.publish(commit=str(len(writer.known())))
            left = [path.name[:2] for path in (place.folder / f"machine-{number}" / home).iterdir() if path.is_dir()]
            assert set(left) == {"g-"}, left
            assert len(left) <= 2, left
        held = bucket.read(f"{home}/current.json")
        assert held is not None
        root = Root.load(held.content)
        kept = {key.rpartition("/o/")[2] for key in bucket.keys(f"{home}/o")}
        assert root.keys() <= kept
        unused = {int(key.partition("-")[0]) for key in kept - root.keys()}
        assert all(number < root.generation for number in unused), "only of the generation before"


@pytest.mark.parametrize("seed", SEEDS)
def test_threads_of_three_machines_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    place = Place(tmp_path / "log", tmp_path)
    bucket = Bucket(MemoryStore(), "memory")
    workers = crew(seed, 6)
    with monkeypatch.context() as patch, ThreadPoolExecutor(len(workers)) as pool:
        endanger(patch.setattr)
        number = len(workers)
        while workers:
            lived = list(pool.map(lambda worker: work_in_thread(place, worker, bucket), workers))
            died = [worker for worker, alive in zip(workers, lived, strict=True) if not alive]
            workers = [next_of(worker, number + place_in) for place_in, worker in enumerate(died)]
            number += len(died)
    check_what_is_left(place, bucket)


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with ObjectServer() as running:
        yield running


@pytest.mark.parametrize("seed", SEEDS)
def test_processes_of_three_machines_that_are_killed(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    place = Place(tmp_path / "log", tmp_path, f"s3://corral/{uuid.uuid4().hex}", server.endpoint)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.index_stress"])
    running: dict[Worker, BaseProcess] = {}

    def start(worker: Worker) -> None:
        running[worker] = context.Process(target=work_in_process, args=(place, worker))
        running[worker].start()

    dice = random.Random(seed)  # noqa: S311 - to repeat a run
    try:
        for worker in crew(seed, 3):
            start(worker)
        number = len(running)
        while running:
            worker = dice.choice(list(running))
            process = running[worker]
            process.join()
            del running[worker]
            if process.exitcode == -signal.SIGKILL:
                start(next_of(worker, number))
                number += 1
            else:
                assert process.exitcode == 0, f"worker {worker} failed; see above"
    finally:
        for process in running.values():
            process.kill()
            process.join()
    check_what_is_left(place, open_bucket(place.address, endpoint=place.endpoint))
