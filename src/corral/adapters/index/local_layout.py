"""The index store on a worker's own disk: Tantivy for words, segments of columns, vectors and text for all else.

::

    <root>/.removed     the highest number of a generation of an index that was removed; higher ones follow
    <root>/<project>/<branch>/
        LOCK            held (flock) by the one writer
        NAME            the branch as its repository calls it; empty for the default branch
        CURRENT         number of the published generation
        w-<random>/     what the writer is making (f-: what is being fetched); renamed when it is published
        g-00000007/     one generation; never changed once published
            manifest.json       what it is, its segments and their dead files, the size of every file
            columns-*.bin, vectors-*.bin, text-*.pack   segments (``local_segment``)
            text-*.dict         the dictionary of the texts
            words/              Tantivy

A new generation is a folder of hard links to the old one's files and at most a few new small ones. It is published by
replacing ``CURRENT``; the one before stays until the next writer comes, for who is about to open it. So a search never
sees half an index, a killed writer leaves a folder that the next one sweeps away, and a new branch costs links instead
of bytes. Nothing waits for the disk: after a loss of power, a generation whose files have not the sizes that its
manifest tells is unreadable, and is made anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from corral.adapters.index.port import FIELDS, IndexState
from corral.errors import ExtraMissing, SearchFailed

try:
    import tantivy

    from corral.adapters.index.local_segment import SegmentEntry
except ImportError as missing:
    raise ExtraMissing("codebase indexing needs the 'index' extra: pip install 'corral[index]'") from missing

_FORMAT = 3
DEFAULT_BRANCH = "@default"
"""A folder's name that no branch has: ``safe_name`` makes none with this sign."""


@cache
def schema() -> tantivy.Schema:
    """Of the lexical index."""
    builder = tantivy.SchemaBuilder()
    for name in FIELDS:
        builder.add_text_field(name, tokenizer_name="spaces", index_option="freq")
    builder.add_text_field("language", tokenizer_name="raw", index_option="basic")
    builder.add_text_field("kinds", tokenizer_name="spaces", index_option="basic")
    builder.add_integer_field("file", indexed=True)
    builder.add_integer_field("uid", fast=True)
    return builder.build()


def open_words(folder: Path, *, create: bool = False) -> tantivy.Index:
    """The lexical index in a folder, with its tokenizer; ``ValueError`` when there is none."""
    index = tantivy.Index(schema(), path=str(folder)) if create else tantivy.Index.open(str(folder))
    index.register_tokenizer("spaces", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
    return index


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation is made of: the content of ``manifest.json``."""

    state: IndexState
    segments: tuple[SegmentEntry, ...]
    next_uid: int
    next_file: int
    #: File with the texts' dictionary; ``""`` when they have none.
    dictionary: str
    #: Every other file of the folder, with its size in bytes.
    sizes: Mapping[str, int]

    def dump(self) -> str:
        """As the file holds it."""
        state = self.state
        return json.dumps(
            {
                "format": _FORMAT,
                "generation": state.generation,
                "identity": state.identity,
                "commit": state.commit,
                "embedder": state.embedder,
                "dimension": state.dimension,
                "files": state.files,
                "chunks": state.chunks,
                "languages": dict(state.languages),
                "skipped": dict(state.skipped),
                "notes": dict(state.notes),
                "segments": [
                    [entry.name, entry.files, entry.chunks, sorted(entry.dead), entry.dead_chunks]
                    for entry in self.segments
                ],
                "nextUid": self.next_uid,
                "nextFile": self.next_file,
                "dictionary": self.dictionary,
                "sizes": dict(self.sizes),
            }
        )

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a generation's; ``OSError``, ``KeyError`` or ``ValueError`` when it is gone, cut or of another kind."""
        raw = json.loads((folder / "manifest.json").read_bytes())
        if raw["format"] != _FORMAT:
            raise ValueError(f"expected index format {_FORMAT}, got {raw['format']!r}")
        state = IndexState(
            generation=raw["generation"],
            identity=raw["identity"],
            commit=raw["commit"],
            embedder=raw["embedder"],
            dimension=raw["dimension"],
            files=raw["files"],
            chunks=raw["chunks"],
            languages=raw["languages"],
            skipped=raw["skipped"],
            notes=raw["notes"],
        )
        segments = tuple(
            SegmentEntry(name, files, chunks, frozenset(dead), dead_chunks)
            for name, files, chunks, dead, dead_chunks in raw["segments"]
        )
        return cls(state, segments, raw["nextUid"], raw["nextFile"], raw["dictionary"], raw["sizes"])

    def check(self, folder: Path) -> None:
        """``OSError`` or ``ValueError`` when files of the generation are gone or cut, as after a loss of power."""
        for name, size in self.sizes.items():
            found = (folder / name).stat().st_size
            if found != size:
                raise ValueError(f"expected {size} bytes in {name}, found {found}")


def sizes_of(folder: Path) -> dict[str, int]:
    """Every file of a generation but the manifest, with its size in bytes."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.suffix != ".lock" and path.is_file() and path.name != "manifest.json"
    }


@lru_cache(maxsize=4096)
@lru_cache(maxsize=4096)
def safe_name(name: str) -> str:
    """A folder name for any id: readable where that is safe, with a hash where characters were replaced."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:80]
    if plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def branch_folder(branch: str) -> str:
    """The folder of a branch's index inside its project's; ``""`` is the default branch."""
    return safe_name(branch) if branch else DEFAULT_BRANCH


def generation_name(generation: int) -> str:
    """Name of a generation's folder."""
    return f"g-{generation:08d}"


def removed_meanwhile(operation: str) -> SearchFailed:
    """What a writer raises whose index was removed under it."""
    return SearchFailed(
        "the index was removed while it was written",
        service="index",
        operation=operation,
        retryable=True,
        reason="index_removed",
    )


def disk_failed(operation: str, error: Exception) -> SearchFailed:
    """What a writer raises when the disk or Tantivy refuses."""
    return SearchFailed(
        f"the index can't be written: {error}",
        service="index",
        operation=operation,
        retryable=False,
        reason="index_not_writable",
    )
