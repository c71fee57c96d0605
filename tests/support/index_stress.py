"""Workers that write, read, fetch and delete one shared index at once, die and stop at random steps, and check it.

What is checked of each generation that anybody opens:

- it is whole: every file that it counts is found, and as many were added as its commit says;
- whatever was published with a lower number is in it, whoever published it and on which machine;
- its number is not lower than that of the generation that the same reader opened before.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from corral.adapters.index.bucket import Bucket, SwapRefused, open_bucket
from corral.adapters.index.local_lock import IndexLock
from corral.adapters.index.local_reader import LocalIndexReader
from corral.adapters.index.port import ChunkRow, FileRow, IndexName, LexicalQuery
from corral.adapters.index.shared import SharedIndexStore
from corral.errors import SearchFailed

NAMES: Final = (IndexName("stress"), IndexName("stress", "branch"))
_STEPS: Final = (
    (Bucket, ("read_unless", "write", "copy", "fetch", "swap", "keys", "delete")),
    (IndexLock, ("publish", "write", "sweep", "clear", "remove")),
)
_EXPECTED: Final = {"index_busy", "index_removed"}
_STEPS_TO_DEATH: Final = 220
_LOST_ANSWERS: Final = 0.08
_NAPS: Final = 0.05
_NAP_S: Final = 0.02


class Killed(BaseException):
    """Stands for the end of a process where workers are threads."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the workers meet.

    Attributes:
        log: A line for each publication that was answered: its branch, number and path.
        address: Of the bucket, with ``endpoint``; both empty where workers are threads and share one in memory.
        folder: Of the machines' copies.
    """

    log: Path
    folder: Path
    address: str = ""
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """One of them: it does some turns, and another one like it takes its place when it dies before.

    Attributes:
        number: Of its own, also between those that took another's place.
        machine: Whose copies it uses.
        turns: How many publications or openings it makes.
        room: Bytes for its machine's copies.
        writes: Whether it publishes; else it reads.
        mortal: Whether it dies at a random step.
        seed: Of all its dice.
    """

    number: int
    machine: int
    turns: int
    room: int
    writes: bool
    mortal: bool
    seed: int


class _Fate:
    """What happens to a worker on its way."""

    def __init__(self, dice: random.Random, end: Callable[[], None], *, mortal: bool) -> None:
        self.dice = dice
        self._end = end
        self._left = dice.randrange(1, _STEPS_TO_DEATH) if mortal else -1

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._end()
        if self.dice.random() < _NAPS:
            time.sleep(self.dice.random() * _NAP_S)  # others overtake it


_own = threading.local()


def _step() -> _Fate | None:
    fate: _Fate | None = getattr(_own, "fate", None)
    if fate is not None:
        fate.step()
    return fate


def _stepping(really: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(really)
    def stepping(*args: Any, **options: Any) -> Any:
        _step()
        done = really(*args, **options)
        fate = _step()
        if fate is not None and really.__name__ == "swap" and fate.dice.random() < _LOST_ANSWERS:
            raise SwapRefused
        return done

    return stepping


def endanger(patch: Callable[[type, str, Any], None]) -> None:
    """Make every step that others can see one at which a worker may stop, die or not get its answer."""
    for owner, names in _STEPS:
        for name in names:
            patch(owner, name, _stepping(getattr(owner, name)))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _be_killed() -> None:
    raise Killed


def work_in_process(place: Place, worker: Worker) -> None:
    """Do it, as a process's only business; dying is meant."""
    endanger(setattr)
    work(place, worker, open_bucket(place.address, endpoint=place.endpoint), _die)


def work_in_thread(place: Place, worker: Worker, bucket: Bucket) -> bool:
    """Do it; whether it lived to the end."""
    try:
        work(place, worker, bucket, _be_killed)
    except Killed:
        return False
    return True


def work(place: Place, worker: Worker, bucket: Bucket, end: Callable[[], None]) -> None:
    """Do the turns.

    Raises:
        AssertionError: Something that must hold doesn't.
        SearchFailed: Something failed that has no reason to.
    """
    dice = random.Random(worker.seed)  # noqa: S311 - to repeat a run
    store = SharedIndexStore(
        bucket,
        place.folder / f"machine-{worker.machine}",
        copies_bytes=worker.room,
        refresh=timedelta(0),
        lock_timeout=timedelta(seconds=60),
    )
    store._checked = True  # the probe is not what is tried here
    _own.fate = _Fate(dice, end, mortal=worker.mortal)
    highest = dict.fromkeys(NAMES, 0)
    try:
        for turn in range(worker.turns):
            name = dice.choice(NAMES)
            if worker.writes:
                _write(place, store, name, f"w{worker.number}-{turn}.py", fresh=dice.random() < 0.1)
            else:
                highest[name] = look(place, store, name, at_least=highest[name])
    finally:
        _own.fate = None


def _write(place: Place, store: SharedIndexStore, name: IndexName, path: str, *, fresh: bool) -> None:
    """Publish a file more; a fresh generation takes over by hand what there was, as a full build would."""
    while True:
        try:
            with store.writer(name, identity="one", embedder="none", dimension=4, fresh=fresh) as writer:
                paths = {path}
                if fresh:
                    reader = store.open(name)
                    if reader is not None:
                        paths |= set(reader.files())
                        reader.close()
                    number = store.current(name)
                    if number != (reader.state.generation if reader else None):
                        continue
                for one in sorted(paths):
                    writer.add(_row(one), np.zeros((1, 4), dtype=np.int8))
                state = writer.publish(commit=str(len({*writer.known(), *paths})))
        except SearchFailed as error:
            if error.reason not in _EXPECTED:
                raise
            continue
        line = f"{name.branch or '@'} {state.generation} {path}\n".encode()
        with place.log.open("ab", buffering=0) as log:
            log.write(line)
        return


def _row(path: str) -> FileRow:
    chunk = ChunkRow(1, 1, "f", "function", ("function",), True, {"body": "word"})
    return FileRow(path, f"blob-{path}", "python", 1, "word " * 50, 1.0, [chunk])


def look(place: Place, store: SharedIndexStore, name: IndexName, *, at_least: int) -> int:
    """Open the index and check it; returns its number, 0 when there is none yet."""
    before = logged(place, name)
    try:
        reader = store.open(name)
    except SearchFailed as error:
        if error.reason not in _EXPECTED:
            raise
        return at_least
    if reader is None:
        assert not before, f"{name} was published, and is not there"
        assert not at_least, f"{name} was there, and is not any more"
        return 0
    try:
        return _checked(reader, name, before, at_least)
    finally:
        reader.close()


def _checked(reader: LocalIndexReader, name: IndexName, before: dict[str, int], at_least: int) -> int:
    state = reader.state
    files = set(reader.files())
    hits = reader.candidates(LexicalQuery({"body": [("word", 1.0)]}), len(files) + 9)
    assert sorted(chunk.path for chunk in reader.chunks(hits.uids.tolist())) == sorted(files), "half an index"
    assert state.files == len(files) == int(state.commit), "another generation than was published"
    lost = {path for path, number in before.items() if number <= state.generation} - files
    assert not lost, f"generation {state.generation} of {name} lost {sorted(lost)}"
    assert state.generation >= at_least, f"{name} went back from {at_least} to {state.generation}"
    return state.generation


def logged(place: Place, name: IndexName) -> dict[str, int]:
    """Every path whose publication was answered, and the number of its generation."""
    lines = place.log.read_text().splitlines() if place.log.exists() else []
    parts = [line.split() for line in lines]
    return {path: int(number) for branch, number, path in parts if branch == (name.branch or "@")}
