"""However an index came about, it is what a build from nothing makes of the same files."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.memory import MemoryIndexStore
from corral.adapters.index.port import (
    ChunkRow,
    FileRow,
    IndexName,
    IndexReader,
    IndexStore,
    LexicalQuery,
    SymbolRow,
)
from corral.jobs.codebase_indexing.build import BuildOptions, build
from corral.jobs.codebase_indexing.source import WorktreeSource

NAME = IndexName("shop")
WORDS = ("alpha", "beta", "gamma", "delta")


def picture(reader: IndexReader) -> dict[str, Any]:
    """All that an index says, without the numbers that depend on how it came about."""
    known = reader.files()
    files: dict[str, Any] = {}
    for path in sorted(known):
        chunks = reader.file_chunks(path)
        stored = reader.file(path)
        files[path] = (
            known[path],
            stored and (stored.language, stored.lines),
            [(c.start_line, c.end_line, c.symbol, c.kind, c.defines, c.text) for c in chunks],
            reader.symbols_of(path),
            reader.imports_of(path),
        )
    found: dict[str, Any] = {}
    for word in WORDS:
        hits = reader.candidates(LexicalQuery({"body": [(word, 1.0)], "names": [(word, 1.0)]}), 500)
        paths = reader.paths(hits.files.tolist())
        priors = zip(hits.files.tolist(), hits.priors.tolist(), hits.defines.tolist(), strict=True)
        found[word] = sorted((paths[file], round(prior, 4), defines) for file, prior, defines in priors)
        found[f"defines {word}"] = reader.definitions(f"{word}_one")
        found[f"imports {word}"] = reader.importers([word])
    state = reader.state
    counts = (state.files, state.chunks, dict(state.languages), dict(state.skipped))
    return {"files": files, "found": found, "counts": counts}


def vectors_of(reader: IndexReader) -> dict[str, Any]:
    return {
        path: reader.vectors(np.array([chunk.uid for chunk in reader.file_chunks(path)], dtype=np.int64))
        for path in sorted(reader.files())
    }


def same(one: IndexStore, other: IndexStore) -> None:
    left, right = one.open(NAME), other.open(NAME)
    assert left is not None
    assert right is not None
    assert picture(left) == picture(right)
    theirs = vectors_of(right)
    for path, vectors in vectors_of(left).items():
        assert vectors == pytest.approx(theirs[path], abs=0.08), path
    left.close()
    right.close()


# --- the whole way: git, rules, chunks, store

PATHS = ("a.py", "src/b.py", "src/deep/c.js", "notes.md", "key.pem", ".corralignore", "src/a.py", "b.min.js")
CONTENTS = (
    "import beta\n\n\ndef alpha_one(x):\n    return beta(x)\n",
    "class Gamma:\n    def gamma_one(self):\n        '''alpha'''\n\n    def delta(self): ...\n" + "x = 1\n" * 400,
    "export function delta_one() { return alpha }\nimport {y} from 'gamma'\n",
    "# Alpha\n\nbeta beta\n",
    "",
    "src/deep/\n",
    "a\0b",
)
STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(PATHS), st.sampled_from(CONTENTS)),
    st.tuples(st.just("move"), st.sampled_from(PATHS), st.sampled_from(PATHS)),
    st.tuples(st.just("delete"), st.sampled_from(PATHS), st.just("")),
    st.tuples(st.just("commit"), st.just(""), st.just("")),
    st.tuples(st.just("switch"), st.sampled_from(("main", "side")), st.just("")),
    st.tuples(st.just("build"), st.just(""), st.just("")),
)


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def take(root: Path, step: tuple[str, str, str]) -> None:
    what, where, more = step
    path = root / where
    if what == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(more)
    elif what == "move" and where != more and path.is_file():
        (root / more).parent.mkdir(parents=True, exist_ok=True)
        path.replace(root / more)
    elif what == "delete" and path.is_file():
        path.unlink()
    elif what in {"commit", "switch"}:
        git(root, "add", "-A")
        git(root, "commit", "-q", "--allow-empty", "-m", "step")
        if what == "switch":
            git(root, "switch", "-q", where)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=4, max_size=14))
def test_any_way_through_a_repository_gives_what_a_fresh_build_gives(steps: list[tuple[str, str, str]]) -> None:
    embedder = StaticEmbedder()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "repository")
        root.mkdir()
        git(root, "init", "-q", "-b", "main")
        take(root, ("write", PATHS[0], CONTENTS[0]))
        take(root, ("commit", "", ""))
        git(root, "branch", "side")
        grown, fresh = LocalIndexStore(Path(folder, "grown")), LocalIndexStore(Path(folder, "fresh"))
        for step in [*steps, ("build", "", "")]:
            take(root, step)
            if step[0] in {"build", "switch", "move"}:
                build(WorktreeSource(root), grown, NAME, embedder)
        build(WorktreeSource(root), fresh, NAME, embedder, BuildOptions(full=True))
        same(grown, fresh)


# --- the store alone: many generations, so that segments are merged

SMALL = st.dictionaries(
    st.sampled_from([f"{folder}/{word}.py" for folder in "abc" for word in WORDS]),
    st.one_of(
        st.none(),
        st.just("skip"),
        st.lists(st.sampled_from([f"{word} {other}" for word in WORDS for other in WORDS]), min_size=1, max_size=9),
    ),
    max_size=4,
)


def stored(path: str, bodies: list[str]) -> FileRow:
    text = "\n".join(bodies)
    chunks = [
        ChunkRow(at, at, f"Type.{body.split()[0]}_one", "method", ("method",), at % 2 == 0, {"body": body, "names": ""})
        for at, body in enumerate(bodies, start=1)
    ]
    symbols = [SymbolRow(f"{body.split()[0]}_one", "method", at, at) for at, body in enumerate(bodies, start=1)]
    return FileRow(path, f"blob {text}", "python", len(bodies), text, 0.5, chunks, symbols, sorted(set(text.split())))


def vectors_for(bodies: list[str]) -> Any:
    return np.array([[WORDS.index(word) * 30, 90, -100] for word, _ in map(str.split, bodies)], dtype=np.int8)


def write(store: IndexStore, changes: Mapping[str, Any]) -> None:
    with store.writer(NAME, identity="one", embedder="test", dimension=3) as writer:
        for path, bodies in changes.items():
            if bodies is None:
                writer.remove(path)
            elif bodies == "skip":
                writer.skip(path, "blob", "binary")
            else:
                writer.add(stored(path, bodies), vectors_for(bodies))
        writer.publish(commit="c")


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(SMALL, min_size=1, max_size=25))
def test_any_run_of_generations_is_what_the_store_in_memory_says(generations: list[Mapping[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        local, memory = LocalIndexStore(Path(folder)), MemoryIndexStore()
        for changes in generations:
            write(local, changes)
            write(memory, changes)
        same(local, memory)
        reader = local.open(NAME)
        assert reader is not None
        assert len(reader.manifest.segments) < 24
        reader.close()
