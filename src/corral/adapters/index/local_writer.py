"""Writing the next generation of the local index."""

from __future__ import annotations

import os
import shutil
import uuid
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

import numpy as np
import tantivy

from corral.adapters.index.local_layout import Manifest, disk_failed, generation_name, sizes_of
from corral.adapters.index.local_merge import merged, too_many
from corral.adapters.index.local_reader import LocalIndexReader, Part
from corral.adapters.index.local_segment import open_segment
from corral.adapters.index.local_segment_writer import SegmentWriter
from corral.adapters.index.local_text import TextCodec
from corral.adapters.index.local_words import WordsWriter
from corral.adapters.index.port import FileRow, IndexState, Reusable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEGMENT_CHUNKS = 100_000
"""A build begins another segment after this many, or when one has collected this much, whatever the repository is made
of: files that are left out have no chunks, and a file may have any number of definitions."""
_SEGMENT_BYTES = 32_000_000
_PATH_MARKS = 1 << 20


Sealed = Callable[[Path, Path | None, IndexState], None]
"""Given a finished generation's folder, the folder of its base, and what it is."""


class _Paths:
    """Paths that were added, by their hashes: a set would grow with the repository, and hardly ever is one added twice.

    It says yes to some that were not, and never no to one that was.
    """

    def __init__(self) -> None:
        self._marks = bytearray(_PATH_MARKS)
        self._open = array("q")

    def add(self, path: str) -> None:
        number = hash(path)
        self._marks[number % _PATH_MARKS] = 1
        self._open.append(number)

    def close_segment(self) -> None:
        del self._open[:]

    def __contains__(self, path: str) -> bool:
        """Whether it was added to any segment."""
        return bool(self._marks[hash(path) % _PATH_MARKS])

    def in_open_segment(self, path: str) -> bool:
        """Whether it was added to the segment that is open."""
        return path in self and bool((np.frombuffer(self._open, dtype=np.int64) == hash(path)).any())


class LocalIndexWriter:
    """The next generation of one index, in a folder of its own until it is published."""

    def __init__(
        self,
        folder: Path,
        *,
        lock: IO[bytes],
        generation: int,
        base: Path | None,
        identity: str,
        embedder: str,
        dimension: int,
        sealed: Sealed | None = None,
    ) -> None:
        self._index_folder = folder
        self._base = base
        self._sealed = sealed
        self._lock = lock
        self._generation = generation
        self._identity = identity
        self._embedder = embedder
        self._dimension = dimension
        self._base_reader = LocalIndexReader(base) if base else None
        self._published = False
        self._new = folder / generation_name(generation)
        sweep(folder, keep=self._current_folders())
        shutil.rmtree(self._new, ignore_errors=True)
        self._new.mkdir()
        self._dictionary = ""
        self._codec: TextCodec | None = None
        self._parts: list[Part] = []
        self._next_uid = self._next_file = 0
        if base and self._base_reader:
            manifest = self._base_reader.manifest
            _link_generation(base, self._new, manifest)
            self._dictionary, self._codec = manifest.dictionary, self._base_reader.codec
            self._parts = list(self._base_reader.parts)
            self._next_uid, self._next_file = manifest.next_uid, manifest.next_file
        self._words = WordsWriter(self._new / "words", fresh=base is None)
        self._dead: dict[int, int] = {}  # file to its number of chunks
        self._spilled: list[Part] = []  # segments of this build that are closed
        self._segment: SegmentWriter | None = None
        self._added = _Paths()

    @property
    def base(self) -> IndexState | None:
        """The generation that this one began as a copy of."""
        return self._base_reader.state if self._base_reader else None

    def known(self) -> dict[str, str]:
        """Path to blob of every file of the base, those skipped included."""
        return self._base_reader.files() if self._base_reader else {}

    def known_blob(self, path: str) -> str | None:
        """The blob of one file of the base, skipped or not."""
        return self._base_reader.blob_of(path) if self._base_reader else None

    def skipped(self, reason: str) -> frozenset[str]:
        """Paths that the base left out for one reason."""
        return self._base_reader.skipped(reason) if self._base_reader else frozenset()

    def reusable(self, blob: str, language: str) -> Reusable | None:
        """What the base knows of a content in one language."""
        return self._base_reader.reusable(blob, language) if self._base_reader else None

    def add(self, file: FileRow, vectors: NDArray[np.int8]) -> None:
        """Store a file, replacing what was at its path."""
        try:
            self._add(file, vectors)
        except (OSError, ValueError) as error:  # Tantivy says ValueError for a full disk too
            raise disk_failed("add", error) from error

    def _add(self, file: FileRow, vectors: NDArray[np.int8]) -> None:
        self.remove(file.path)
        segment = self._open_segment()
        segment.add(self._next_file, self._next_uid, file, vectors)
        for uid, chunk in enumerate(file.chunks, start=self._next_uid):
            self._words.add(
                tantivy.Document(
                    uid=uid, file=self._next_file, language=file.language, kinds=" ".join(chunk.kinds), **chunk.fields
                )
            )
        self._added.add(file.path)
        self._next_file += 1
        self._next_uid += len(file.chunks)
        self._spill(segment)

    def skip(self, path: str, blob: str, reason: str) -> None:
        """Remember that a file was left out."""
        try:
            self.remove(path)
            segment = self._open_segment()
            segment.skip(self._next_file, path, blob, reason)
            self._added.add(path)
            self._next_file += 1
            self._spill(segment)
        except (OSError, ValueError) as error:
            raise disk_failed("skip", error) from error

    def remove(self, path: str) -> None:
        """Forget a file."""
        if self._added.in_open_segment(path):
            self._close_segment()  # one looks up in closed ones only
        for part in [*self._parts, *(self._spilled if path in self._added else ())]:
            for row in part.live(part.segment.find_path(path)):
                begin, end = part.segment.chunk_range(row)
                self._bury(int(part.segment.files["id"][row]), end - begin)

    def _bury(self, file_id: int, chunks: int) -> None:
        if file_id not in self._dead:
            self._dead[file_id] = chunks
            if chunks:
                self._words.remove_file(file_id)

    def _open_segment(self) -> SegmentWriter:
        if self._segment is None:
            # A name that no other generation of any branch has: the linked files beside it are shared.
            self._segment = SegmentWriter(self._new, uuid.uuid4().hex, self._dimension, self._codec)
        return self._segment

    def _spill(self, segment: SegmentWriter) -> None:
        """Close a segment that is full: from then on it is on the disk only."""
        if segment.chunks >= _SEGMENT_CHUNKS or segment.collected_bytes >= _SEGMENT_BYTES:
            self._close_segment()

    def _close_segment(self) -> None:
        if self._segment is None:
            return
        entry, codec = self._segment.finish()
        self._segment = None
        self._added.close_segment()
        self._spilled.append(Part(open_segment(self._new, entry), entry))
        if self._codec is None and codec.dictionary:
            self._dictionary = f"text-{entry.name}.dict"
            (self._new / self._dictionary).write_bytes(codec.dictionary)
        self._codec = codec

    def publish(self, *, commit: str, notes: Mapping[str, str] | None = None) -> IndexState:
        """Make this the generation that readers open from now on."""
        try:
            return self._publish(commit, notes or {})
        except (OSError, ValueError) as error:
            raise disk_failed("publish", error) from error

    def _publish(self, commit: str, notes: Mapping[str, str]) -> IndexState:
        self._words.commit()
        self._close_segment()
        parts = self._compacted(self._live_parts())
        state = self._state(parts, commit, notes)
        manifest = Manifest(
            state=state,
            segments=tuple(part.entry for part in parts),
            next_uid=self._next_uid,
            next_file=self._next_file,
            dictionary=self._dictionary,
            sizes=sizes_of(self._new),
        )
        (self._new / "manifest.json").write_text(manifest.dump())
        if self._sealed is not None:
            self._sealed(self._new, self._base, state)
        replace_text(self._index_folder / "CURRENT", str(self._generation))
        self._published = True
        return state

    def _live_parts(self) -> list[Part]:
        """All segments with what has died in them by now; without those in which nothing lives."""
        parts = [part.with_dead(self._dead) for part in [*self._parts, *self._spilled]]
        for part in parts:
            if not part.alive.any():
                part.entry.unlink(self._new)
        return [part for part in parts if part.alive.any()]

    def _compacted(self, parts: list[Part]) -> list[Part]:
        """With small segments made one, so that there are never many; see ``local_merge``."""
        chosen = too_many(parts)
        if not chosen or self._codec is None:
            return parts
        made = merged(self._new, chosen, self._dimension, self._codec)
        for part in chosen:
            part.entry.unlink(self._new)
        return [*(part for part in parts if part not in chosen), *made]

    def _state(self, parts: list[Part], commit: str, notes: Mapping[str, str]) -> IndexState:
        languages: Counter[str] = Counter()
        skipped: Counter[str] = Counter()
        for part in parts:
            files, alive = part.segment.files, part.alive
            indexed = alive & (files["reason"] == 0)
            for number, count in enumerate(np.bincount(files["language"][indexed]).tolist()):
                if count:
                    languages[part.segment.languages[number]] += count
            for number, count in enumerate(np.bincount(files["reason"][alive & ~indexed]).tolist()):
                if count:
                    skipped[part.segment.reasons[number]] += count
        return IndexState(
            generation=self._generation,
            identity=self._identity,
            commit=commit,
            embedder=self._embedder,
            dimension=self._dimension,
            files=languages.total(),
            chunks=sum(part.entry.live_chunks for part in parts),
            languages=_by_count(languages),
            skipped=_by_count(skipped),
            notes=notes,
        )

    def _current_folders(self) -> set[str]:
        try:
            generation = int((self._index_folder / "CURRENT").read_text())
        except (OSError, ValueError):
            return set()
        return {generation_name(generation), generation_name(generation - 1)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._words.close()
        if not self._published:
            if self._segment is not None:
                self._segment.close()
            shutil.rmtree(self._new, ignore_errors=True)
        if self._base_reader:
            self._base_reader.close()
        self._lock.close()


def _by_count(counted: Counter[str]) -> dict[str, int]:
    return dict(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])))


def sweep(folder: Path, *, keep: set[str]) -> None:
    """Remove generations that nobody will open again, and those of killed writers (the lock is ours)."""
    for path in folder.glob("g-*"):
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def _link_generation(old: Path, new: Path, manifest: Manifest) -> None:
    (new / "words").mkdir()
    for name in manifest.sizes:
        if name.endswith(".json"):  # Tantivy's own, which it replaces
            shutil.copyfile(old / name, new / name)
        else:
            _link(old / name, new / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def replace_text(path: Path, text: str) -> None:
    """Replace a small file in one step."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)
