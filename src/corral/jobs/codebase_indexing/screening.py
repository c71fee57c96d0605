"""Secrets are taken out of what is indexed by the scanner that pull requests are held to.

The rules that ``without_tokens`` knows cost nothing and always run. Files with a line that could hold any other secret
go to the scanner too, many at a time, for it is a program that takes a quarter of a second to start.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from corral.adapters.secrets import Passage, SecretMasker
from corral.errors import AdapterError, SearchFailed
from corral.jobs.codebase_indexing.languages import DATA, language_of
from corral.jobs.codebase_indexing.rules import decoded
from corral.jobs.codebase_indexing.source import Change, Entry, Source

_BATCH_FILES: Final = 512
_BATCH_BYTES: Final = 16_000_000
_MARKS: Final = (
    b"assw", b"ASSW", b"ecret", b"ECRET", b"-----BEGIN", b"_live_", b"SG.", b"ya29.", b"eyJ", b"AGE-SECRET", b"xox",
    b"hooks.slack",
)  # fmt: skip
_LITERAL: Final = re.compile(rb"""["'`](?=[A-Za-z+/_=.~:-]{0,40}\d)[A-Za-z0-9+/_=.~:-]{16}""")
_ADDRESS: Final = re.compile(rb"://[^\s:/@\"']{1,80}:[^\s/@\"']{3,200}@")
"""With a password in it."""


class WrappedSource:
    """A source whose reading is watched or changed by a subclass."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def commit(self) -> str:
        """As the source says."""
        return self._source.commit

    @property
    def notes(self) -> Mapping[str, str]:
        """As the source says."""
        return self._source.notes

    def unchanged(self, commit: str, notes: Mapping[str, str]) -> bool:
        """As the source says."""
        return self._source.unchanged(commit, notes)

    def changes(self, commit: str, notes: Mapping[str, str]) -> Change | None:
        """As the source says."""
        return self._source.changes(commit, notes)

    def entries(self) -> Collection[Entry]:
        """As the source says."""
        return self._source.entries()

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """As the source does."""
        return self._source.read(entries, limit_bytes)


class ScreenedSource(WrappedSource):
    """A source whose contents come with their secrets starred out; lines stay where they are.

    Args:
        source: The files.
        masker: Takes secrets out.
    """

    def __init__(self, source: Source, masker: SecretMasker) -> None:
        super().__init__(source)
        self._masker = masker
        #: How many secrets were starred out so far.
        self.masked = 0

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """Contents in order.

        Raises:
            SearchFailed: The scanner could not do its work; nothing unscreened is indexed.
        """
        found = self._source.read(entries, limit_bytes)
        while batch := _batch(found):
            clean = self._screened(
                {
                    index: (entry.path, content)
                    for index, (entry, content) in enumerate(batch)
                    if content and _suspicious(entry.path, content)
                }
            )
            for index, (entry, content) in enumerate(batch):
                yield entry, clean.get(index, content)

    def _screened(self, suspects: Mapping[int, tuple[str, bytes]]) -> dict[int, bytes]:
        passages: dict[int, Passage] = {}
        for index, (path, content) in suspects.items():
            text = decoded(content)
            if text is not None:
                passages[index] = Passage(path=path, lines=tuple(text.split("\n")))
        if not passages:
            return {}
        try:
            masked = asyncio.run(self._masker.mask(list(passages.values())))
        except AdapterError as error:
            raise SearchFailed(
                f"secrets can't be looked for: {error}",
                service="index",
                operation="screen",
                retryable=error.retryable,
                reason="scanner_failed",
            ) from error
        self.masked += sum(one.count for one in masked)
        return {
            index: one.text.encode("utf-8", "replace") for index, one in zip(passages, masked, strict=True) if one.count
        }


def _batch(found: Iterable[tuple[Entry, bytes | None]]) -> list[tuple[Entry, bytes | None]]:
    batch, size = [], 0
    for entry, content in islice(found, _BATCH_FILES):
        batch.append((entry, content))
        size += len(content or b"")
        if size > _BATCH_BYTES:
            break
    return batch


def _suspicious(path: str, content: bytes) -> bool:
    """Whether the scanner should look at a file; 100 MB/s, where the obvious pattern of names and values does ten."""
    return (
        language_of(path) in DATA  # settings need no quotes round a key
        or any(mark in content for mark in _MARKS)
        or _LITERAL.search(content) is not None
        or _ADDRESS.search(content) is not None
        or b"\0" in content[:200]  # UTF-16 hides its letters from these patterns, and is rare
    )
