"""Which files the secret scanner sees, and what comes of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pytest

from corral.adapters.secrets import MaskedText, Passage
from corral.errors import AdapterError, SearchFailed
from corral.jobs.codebase_indexing.screening import ScreenedSource
from corral.jobs.codebase_indexing.source import Change, Entry


class Contents:
    """A source of contents that are at hand."""

    commit = "c"

    def __init__(self, contents: Mapping[str, bytes | None]) -> None:
        self.contents = contents
        self.notes = {"n": "1"}

    def unchanged(self, commit: str, notes: Mapping[str, str]) -> bool:
        return commit == self.commit and notes == self.notes

    def changes(self, commit: str, notes: Mapping[str, str]) -> Change | None:
        return None

    def entries(self) -> list[Entry]:
        return [Entry(path, path) for path in self.contents]

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        for entry in entries:
            yield entry, self.contents[entry.path]


class Stars:
    """Takes the word HIDDEN out, and knows what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []

    async def mask(self, passages: Sequence[Passage]) -> list[MaskedText]:
        self.shown.append([passage.path for passage in passages])
        texts = ["\n".join(passage.lines) for passage in passages]
        return [MaskedText(text.replace("HIDDEN", "***"), text.count("HIDDEN")) for text in texts]


class Broken:
    async def mask(self, passages: Sequence[Passage]) -> list[MaskedText]:
        raise AdapterError("no answer", service="scanner", operation="scan", retryable=True)


def read(source: ScreenedSource) -> dict[str, bytes | None]:
    """In a thread, as builds do: the scanner gets an event loop of its own."""
    got: dict[str, bytes | None] = {}
    worker = threading.Thread(
        target=lambda: got.update((entry.path, content) for entry, content in source.read(source.entries(), 1000))
    )
    worker.start()
    worker.join()
    return got


def test_secrets_are_starred_out_counted_and_the_rest_is_as_it_was() -> None:
    contents = {
        "a.py": b"password = 'HIDDEN'\nx = 1\n",
        "plain.py": b"HIDDEN in plain code is not looked at\n",
        "gone.py": None,
        "wide.py": "token = 'HIDDEN'\n".encode("utf-16"),
        "set.yaml": b"key: HIDDEN\n",
        "clean.py": b"secret = None\n\xff\n",
    }
    stars = Stars()
    source = ScreenedSource(Contents(contents), stars)
    got = read(source)
    assert list(got) == list(contents)
    assert got["a.py"] == b"password = '***'\nx = 1\n"
    assert got["wide.py"] == b"token = '***'\n"
    assert got["set.yaml"] == b"key: ***\n"
    assert {path: got[path] for path in ("plain.py", "gone.py", "clean.py")} == {
        path: contents[path] for path in ("plain.py", "gone.py", "clean.py")
    }
    assert source.masked == 3
    assert stars.shown == [["a.py", "wide.py", "set.yaml", "clean.py"]]
    assert (source.commit, source.notes, source.changes("c", {})) == ("c", {"n": "1"}, None)
    assert source.unchanged("c", {"n": "1"})


def test_many_files_go_in_few_runs_of_the_scanner() -> None:
    stars = Stars()
    got = read(ScreenedSource(Contents({f"{number}.py": b"secret" for number in range(1200)}), stars))
    assert len(got) == 1200
    assert [len(shown) for shown in stars.shown] == [512, 512, 176]


def test_nothing_is_scanned_when_nothing_is_suspicious() -> None:
    stars = Stars()
    read(ScreenedSource(Contents({"a.py": b"def add(a, b): return a + b\n"}), stars))
    assert stars.shown == []


@pytest.mark.parametrize(
    "line",
    [
        b'x = "a1b2c3d4e5f6a7b8c9d0"',
        b"URL = 'postgres://shop:pa55word@db/shop'",
        b"PASSWORD=x",
        b'hook = "https://hooks.slack.com/services/x"',
        b"-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_what_could_be_a_secret_is_shown_to_the_scanner(line: bytes) -> None:
    stars = Stars()
    read(ScreenedSource(Contents({"a.py": b"import os\n" + line + b"\n"}), stars))
    assert stars.shown == [["a.py"]]


def test_without_the_scanners_word_nothing_is_indexed() -> None:
    source = ScreenedSource(Contents({"a.py": b"secret"}), Broken())
    with pytest.raises(SearchFailed, match="no answer") as failed:
        list(source.read(source.entries(), 1000))
    assert failed.value.retryable
