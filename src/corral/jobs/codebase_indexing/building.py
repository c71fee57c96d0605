"""Where an index is built: in a thread of the worker, or in a process of its own, which is how workers do it.

What a repository holds is parsed by native code, and a file that makes it crash, or memory run out, must not take the
worker down. The process gets a limit of memory and little of the processor when others want it; cancelling the job
kills it, which an index survives. After a crash the build is begun again without the file that was at hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, Self

from corral.adapters.embedder.factory import make_embedder
from corral.adapters.embedder.port import Embedder
from corral.adapters.index.factory import make_index_store
from corral.adapters.index.port import IndexName, IndexStore
from corral.adapters.secrets import BetterleaksScanner, SecretMasker
from corral.errors import ExtraMissing, ProcessDied, SearchFailed
from corral.jobs.codebase_indexing.build import BuildOptions, BuildReport, build
from corral.jobs.codebase_indexing.screening import ScreenedSource, WrappedSource
from corral.jobs.codebase_indexing.source import Entry, Source
from corral.queue.definition import JobTypeSpec
from corral.queue.isolation import ProcessRunner
from corral.queue.job import Job, ThreadJob
from corral.settings import Settings

_REPORT_EVERY_S: Final = 0.5
_NICENESS: Final = 10
_OOM_SCORE: Final = 500
_MOST_CRASHES: Final = 3
_PATH_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class Built:
    """What a build did."""

    report: BuildReport
    #: Secrets starred out in what was read.
    secrets_masked: int = 0


class Builder(Protocol):
    """Builds an index for a job."""

    async def build(self, job: Job[Any], source: Source, name: IndexName, options: BuildOptions) -> Built:
        """Build, telling the job how far it is.

        Raises:
            SearchFailed: The store or the embedder failed.
            GitFailed: The source can't be read.
            ProcessDied: It crashed, again and again.
        """
        ...


def _progress(done: int, total: int) -> dict[str, Any]:
    return {"percent": min(99, 100 * done // max(1, total)), "stage": "indexing", "files": done, "of": total}


def _masker() -> SecretMasker | None:
    try:
        return BetterleaksScanner()
    except ExtraMissing:
        return None  # not made for this machine: the rules for tokens of known forms remain


class _Screened:
    """A source without its secrets, where there is something to take them out with."""

    def __init__(self, source: Source, masker: SecretMasker | None) -> None:
        self._screened = None if masker is None else ScreenedSource(source, masker)
        self.source: Source = self._screened or source

    @property
    def masked(self) -> int:
        return self._screened.masked if self._screened else 0


class _Cancelled(Exception):
    pass


class ThreadBuilder:
    """Builds in a thread; for tests, and for stores that live in memory.

    Args:
        store: Where indexes are kept.
        embedder: Makes the vectors.
        masker: Takes secrets out; None leaves it to the rules for tokens of known forms.
    """

    def __init__(self, store: IndexStore, embedder: Embedder, *, masker: SecretMasker | None = None) -> None:
        self._store = store
        self._embedder = embedder
        self._masker = masker

    async def build(self, job: Job[Any], source: Source, name: IndexName, options: BuildOptions) -> Built:
        """See ``Builder``; the thread of a cancelled job is waited for, so that what it had begun is thrown away."""
        stop = threading.Event()
        latest = (0, 1)

        def report(done: int, total: int) -> None:
            nonlocal latest
            if stop.is_set():
                raise _Cancelled
            latest = (done, total)

        def work() -> Built:
            screened = _Screened(source, self._masker)
            done = build(screened.source, self._store, name, self._embedder, options, report=report)
            return Built(done, screened.masked)

        building = asyncio.ensure_future(asyncio.to_thread(work))
        told = None
        try:
            while not building.done():
                await asyncio.wait([building], timeout=_REPORT_EVERY_S)
                if latest != told:
                    told = latest
                    await job.progress(_progress(*latest))
            return await building
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(_Cancelled, SearchFailed, asyncio.CancelledError):
                await asyncio.shield(building)  # what it had begun is thrown away before we let go
            raise
        except BaseException:
            stop.set()
            with contextlib.suppress(Exception):
                await asyncio.shield(building)
            raise


@dataclass(frozen=True, slots=True)
class Order:
    """What a building process is told."""

    settings: Settings
    source: Source
    name: IndexName
    options: BuildOptions
    #: File in which it keeps the path that it is at.
    at: Path


class ProcessBuilder:
    """Builds in processes of their own, each used for one build after another.

    Args:
        settings: They make their store and embedder of them.
        size: Builds at once.
        body: Carries out an order in the process; a function at module level.
    """

    def __init__(
        self, settings: Settings, *, size: int = 1, body: Callable[[ThreadJob[Order]], Built] | None = None
    ) -> None:
        self._settings = settings
        self._runner = ProcessRunner(JobTypeSpec(name="codebase-indexing", handler=body or build_in_process), size)

    async def build(self, job: Job[Any], source: Source, name: IndexName, options: BuildOptions) -> Built:
        """See ``Builder``; cancelling kills the process with everything that it started."""
        with tempfile.NamedTemporaryFile(prefix="corral-indexing-at-") as at:
            order = Order(self._settings, source, name, options, Path(at.name))
            while True:
                try:
                    done: Built = await self._runner.run(replace(job, data=order))
                except ProcessDied as died:
                    order = await self._without_the_file_at_hand(job, order, died)
                else:
                    return done

    async def _without_the_file_at_hand(self, job: Job[Any], order: Order, died: ProcessDied) -> Order:
        path = order.at.read_bytes().rstrip(b"\0").decode("utf-8", "surrogateescape")
        avoided = tuple(order.options.avoid)
        if not path or path in avoided or len(avoided) >= _MOST_CRASHES:
            raise died
        shown = path.encode("utf-8", "backslashreplace").decode()
        await job.log(f"{died} It was at {shown!r}, which is left out.")
        return replace(order, options=replace(order.options, avoid=(*avoided, path)))

    async def close(self) -> None:
        """End the processes."""
        await self._runner.close()


_made: tuple[Settings, IndexStore, Embedder, SecretMasker | None] | None = None
"""What this process made for its last build: a model takes a while to load."""


def build_in_process(job: ThreadJob[Order]) -> Built:
    """Carry out an order; the body of a building process."""
    global _made  # noqa: PLW0603 - this process does nothing else
    order = job.data
    _be_modest(order.settings.index_memory_mb)
    if _made is None or _made[0] != order.settings:
        _made = (order.settings, make_index_store(order.settings), make_embedder(order.settings), _masker())
    _, store, embedder, masker = _made
    told = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _REPORT_EVERY_S:
            told = time.monotonic()
            job.progress_now(_progress(done, total))

    try:
        with _Footprints(order.at) as footprints:
            screened = _Screened(order.source, masker)
            source = FollowedSource(
                screened.source, footprints
            )  # outermost: it says what is worked on, not what is read
            done = build(source, store, order.name, embedder, order.options, report=report)
            return Built(done, screened.masked)
    except MemoryError:
        os._exit(os.EX_OSERR)  # what else failed on the way nobody knows: this is a crash like any other


def _be_modest(memory_mb: int) -> None:
    """Limit this process; done again it changes nothing."""
    limit = memory_mb * 1_000_000
    # Of what is written to memory: an index's mapped files, which the kernel can drop, don't count.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    missing = _NICENESS - os.getpriority(os.PRIO_PROCESS, 0)
    if missing > 0:
        os.nice(missing)
    with contextlib.suppress(OSError):  # not everywhere allowed; then the kernel's own choice stands
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


class _Footprints:
    """Keeps the path at hand where it outlives this process."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("r+b")
        self._file.truncate(_PATH_BYTES)
        self._map = mmap.mmap(self._file.fileno(), _PATH_BYTES)

    def at(self, path: str) -> None:
        raw = path.encode("utf-8", "surrogateescape")
        self._map[:] = raw.ljust(_PATH_BYTES, b"\0") if len(raw) <= _PATH_BYTES else bytes(_PATH_BYTES)

    def __enter__(self) -> Self:
        self.at("")
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()
        self._file.close()


class FollowedSource(WrappedSource):
    """A source that leaves the path of the file whose content is worked on."""

    def __init__(self, source: Source, footprints: _Footprints) -> None:
        super().__init__(source)
        self._footprints = footprints

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """As the source does."""
        for entry, content in self._source.read(entries, limit_bytes):
            self._footprints.at(entry.path)
            yield entry, content
        self._footprints.at("")
