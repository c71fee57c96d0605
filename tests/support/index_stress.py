"""Workers that write, read, fetch and delete one shared index at once, die and stop at random steps, and check it.

What is checked of each generation that anybody opens:

- it is whole: every file that it counts is found, and as many were added as its commit says;
- whatever was published with a lower number is in it, whoever published it and on which machine;
- its number is not lower than that of the generation that the same reader opened before;
- nothing is in it that was published before a removal that had ended before.
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
REMOVED: Final = IndexName("removed")
"""An index that is removed now and then."""
_STEPS: Final = (
    (Bucket, ("read_unless", "write", "copy", "fetch", "swap", "keys", "delete")),
    (IndexLock, ("publish", "write", "sweep", "clear", "remove")),
)
_EXPECTED: Final = {"index_busy", "index_removed"}
_STEPS_TO_DEATH: Final = 220
_LOST_ANSWERS: Final = 0.08
_REMOVALS: Final = 0.4
_NAPS: Final = 0.05
_NAP_S: Final = 0.02
_OVERTAKEN: Final = 0.01
_SLEEP_S: Final = 0.5


class Killed(BaseException):
    """Stands for the end of a process where workers are threads."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the workers meet.

    Attributes:
        log: A line for each publication that was answered: its index, number and path; and one for each removal: the
            paths that were published before.
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
        refresh_s: How old what it knows may be.
        seed: Of all its dice.
    """

    number: int
    machine: int
    turns: int
    room: int
    writes: bool
    mortal: bool
    seed: int
    refresh_s: float = 0.0


class _Fate:
    """What happens to a worker on its way."""

    def __init__(self, dice: random.Random, end: Callable[[], None], log: Path, *, mortal: bool) -> None:
        self._dice = dice
        self._end = end
        self._log = log
        self._left = dice.randrange(1, _STEPS_TO_DEATH) if mortal else -1

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._end()
        if self._dice.random() < _NAPS:
            time.sleep(self._dice.random() * _NAP_S)
        if self._dice.random() < _OVERTAKEN:
            self.be_overtaken()

    def be_overtaken(self) -> None:
        """Sleep until somebody has published, if anybody does."""
        before, end = self._published(), time.monotonic() + _SLEEP_S
        while self._published() == before and time.monotonic() < end:
            time.sleep(_NAP_S / 4)

    def _published(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def loses_answer(self) -> bool:
        if self._dice.random() >= _LOST_ANSWERS:
            return False
        self.be_overtaken()  # while the answer is waited for
        return True


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
        if fate is not None and really.__name__ == "swap" and fate.loses_answer():
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
        refresh=timedelta(seconds=worker.refresh_s),
        lock_timeout=timedelta(seconds=60),
    )
    store._checked = True  # the probe is not what is tried here
    _own.fate = _Fate(dice, end, place.log, mortal=worker.mortal)
    highest = dict.fromkeys([*NAMES, REMOVED], 0)
    try:
        for turn in range(worker.turns):
            name = dice.choice(list(highest))
            if worker.writes and name == REMOVED and dice.random() < _REMOVALS:
                _remove(place, store)
            elif worker.writes:
                _write(place, store, name, f"w{worker.number}-{turn}.py", fresh=dice.random() < 0.1)
            else:
                gone = set[str]() if worker.refresh_s else removed(place)
                highest[name] = look(place, store, name, at_least=highest[name], gone=gone)
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
        _log(place, f"{_shown(name)} {state.generation} {path}")
        return


def _remove(place: Place, store: SharedIndexStore) -> None:
    before = logged(place, REMOVED)
    while True:
        try:
            store.remove(REMOVED.project_id)
        except SearchFailed as error:
            if error.reason not in _EXPECTED:
                raise
            continue
        _log(place, f"- 0 {' '.join(before)}")
        return


def _log(place: Place, line: str) -> None:
    with place.log.open("ab", buffering=0) as log:
        log.write(f"{line}\n".encode())


def _shown(name: IndexName) -> str:
    return f"{name.project_id}/{name.branch}"


def _row(path: str) -> FileRow:
    chunk = ChunkRow(1, 1, "f", "function", ("function",), True, {"body": "word"})
    return FileRow(path, f"blob-{path}", "python", 1, "word " * 50, 1.0, [chunk])


def look(place: Place, store: SharedIndexStore, name: IndexName, *, at_least: int, gone: set[str]) -> int:
    """Open the index and check it; returns its number, 0 when there is none yet."""
    before = logged(place, name)
    try:
        reader = store.open(name)
    except SearchFailed as error:
        if error.reason not in _EXPECTED:
            raise
        return at_least
    if reader is None:
        assert name == REMOVED or not before, f"{name} was published, and is not there"
        assert name == REMOVED or not at_least, f"{name} was there, and is not any more"
        return at_least
    try:
        state, files = reader.state, set(reader.files())
        assert _found(reader) == sorted(files), "half an index"
        assert state.files == len(files) == int(state.commit), "another generation than was published"
        assert state.generation >= at_least, f"{name} went back from {at_least} to {state.generation}"
        assert not files & gone, f"generation {state.generation} holds what was removed"
        lost = {path for path, number in before.items() if number <= state.generation} - files
        assert name == REMOVED or not lost, f"generation {state.generation} of {name} lost {sorted(lost)}"
        return state.generation
    finally:
        reader.close()


def _found(reader: LocalIndexReader) -> list[str]:
    hits = reader.candidates(LexicalQuery({"body": [("word", 1.0)]}), 10_000)
    return sorted(chunk.path for chunk in reader.chunks(hits.uids.tolist()))


def _lines(place: Place) -> list[list[str]]:
    return [line.split() for line in place.log.read_text().splitlines()] if place.log.exists() else []


def logged(place: Place, name: IndexName) -> dict[str, int]:
    """Every path whose publication was answered, and the number of its generation."""
    return {line[2]: int(line[1]) for line in _lines(place) if line[0] == _shown(name)}


def removed(place: Place) -> set[str]:
    """Every path that was published before a removal that has ended."""
    return {path for line in _lines(place) if line[0] == "-" for path in line[2:]}
