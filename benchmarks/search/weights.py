"""Measure how much an embedder's vectors should count beside the words: its fusion weight.

    CORRAL_EMBEDDER=minilm:FOLDER python benchmarks/search/weights.py --raw UNPACKED_SOURCE_DISTRIBUTIONS \
        --work SCRATCH [--part tuned|kept_back] [--per-kind 50] [--weights 0.25,0.5,0.75,1,1.5] \
        [--candidates 150] [--json OUT]

Any embedder that ``CORRAL_EMBEDDER`` names, services included. A search reads the vectors of the best chunks by words
and no others, so only those are embedded, rounded as the store rounds them, and kept by model and content in
``SCRATCH/vectors.sqlite``: a second run embeds nothing. Fewer ``--candidates`` make a slow embedder's run shorter, for
every engine alike. Bare names are not asked, as vectors are left out of them. The same questions are asked of words
alone and of the static vectors; differences are judged by a paired bootstrap.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from run import bootstrap, corpus, ndcg, paths_of  # first: it sets the paths

# ruff: isort: split
import numpy as np
from corpus import KEPT_BACK, SEED, TUNED, Query

from corral.adapters.embedder.api import VectorCache
from corral.adapters.embedder.factory import make_embedder
from corral.adapters.embedder.port import Embedded, Embedder, Passage
from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.local_text import pack_vectors, unpack_vectors
from corral.adapters.index.port import Candidates, Filters, IndexName, IndexReader, IndexState, LexicalQuery
from corral.adapters.index.signature import SIGNATURE_BYTES
from corral.adapters.words import words_of
from corral.jobs.codebase_indexing.build import build, quantized
from corral.jobs.codebase_indexing.ranking import CANDIDATES
from corral.jobs.codebase_indexing.search import CodeSearch
from corral.jobs.codebase_indexing.source import folder_source
from corral.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

KINDS = ("docstring", "question", "test")
WORDS, STATIC = "words alone", "static vectors"


class Kept:
    """An embedder at a weight of the caller's, whose vectors are kept by content."""

    def __init__(self, inner: Embedder, cache: Path) -> None:
        self._inner = inner
        self._cache = VectorCache(cache)
        self._questions: dict[str, Floats] = {}
        self.name = inner.name
        self.dimension = inner.dimension
        self.fusion_weight = inner.fusion_weight
        self.made = 0
        self.cpu_s = 0.0
        self.cost_usd = 0.0

    def embed(self, passages: Sequence[Passage]) -> Embedded:
        keys = [hashlib.sha256(f"{self.name}\0{one.words}\0{one.text}".encode()).digest() for one in passages]
        known = self._cache.get(keys)
        missing = {key: one for key, one in zip(keys, passages, strict=True) if key not in known}
        if missing:
            before = time.process_time()
            done = self._inner.embed(list(missing.values()))
            self.cpu_s += time.process_time() - before
            self.made += len(missing)
            self.cost_usd += done.cost_usd
            fresh = dict(zip(missing, done.vectors, strict=True))
            self._cache.put(fresh)
            known.update(fresh)
        return Embedded(np.array([known[key] for key in keys], dtype=np.float32))

    def embed_query(self, text: str) -> Floats:
        if text not in self._questions:
            self._questions[text] = self._inner.embed_query(text)
        return self._questions[text]

    def close(self) -> None:
        self._inner.close()
        self._cache.close()


class LateReader:
    """An index with another embedder's vectors, each made when it is first read, and at most so many candidates."""

    def __init__(self, reader: IndexReader, embedder: Embedder, limit: int) -> None:
        self._reader = reader
        self._embedder = embedder
        self._limit = limit
        self._vectors: dict[int, Floats] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    @property
    def state(self) -> IndexState:
        return replace(self._reader.state, embedder=self._embedder.name, dimension=self._embedder.dimension)

    def candidates(self, query: LexicalQuery, limit: int) -> Candidates:
        found = self._reader.candidates(replace(query, vector=None), min(limit, self._limit))
        if query.vector is None or not len(found.uids):
            return found
        return replace(found, similarities=self._vectors_of(found.uids) @ query.vector)

    def _vectors_of(self, uids: NDArray[np.int64]) -> Floats:
        missing = [uid for uid in uids.tolist() if uid not in self._vectors]
        if missing:
            passages = [
                Passage(chunk.text, f"{words_of(chunk.symbol)} {words_of(chunk.text)}")
                for chunk in self._reader.chunks(missing)
            ]
            self._vectors.update(zip(missing, as_stored(self._embedder.embed(passages).vectors), strict=True))
        return np.array([self._vectors[uid] for uid in uids.tolist()], dtype=np.float32)

    def nearest(self, vector: Floats, limit: int, filters: Filters, words: Sequence[str] = ()) -> Candidates:
        """None: a question that shares no word with any chunk would have all of them embedded."""
        del vector, words
        return self._reader.candidates(LexicalQuery({}, filters), limit)


class LateStore:
    """One reader, which stays open."""

    def __init__(self, reader: LateReader) -> None:
        self._reader = reader

    def open(self, name: IndexName) -> LateReader:  # noqa: ARG002 - the port's
        return self._reader

    def current(self, name: IndexName) -> int:  # noqa: ARG002 - the port's
        return self._reader.state.generation


def late(reader: IndexReader, asking: Embedder | None, embedder: Embedder, candidates: int) -> CodeSearch:
    return CodeSearch(LateStore(LateReader(reader, embedder, candidates)), asking)  # type: ignore[arg-type]  # reads


def as_stored(vectors: Floats) -> Floats:
    """As a search reads them."""
    signatures = np.zeros((len(vectors), SIGNATURE_BYTES), dtype=np.uint8)
    return unpack_vectors(pack_vectors(quantized(vectors), signatures), vectors.shape[1])


def sampled(queries: Sequence[Query], per_kind: int) -> list[Query]:
    """As many of each kind, over all repositories; a smaller sample is part of a larger one."""
    chosen: list[Query] = []
    for kind in KINDS:
        of_kind = [query for query in queries if query.kind == kind]
        random.Random(SEED).shuffle(of_kind)
        chosen += of_kind[:per_kind]
    return chosen


def asked(search: CodeSearch, queries: Sequence[Query], scores: defaultdict[str, list[float]]) -> None:
    for query in queries:
        hits = search.search_now(query.repository, query.text, limit=30)
        scores[query.kind].append(ndcg(paths_of(hits), query.answers))


def hopeful(
    by_words: CodeSearch, queries: Sequence[Query], scores: dict[str, Any], engines: Sequence[str]
) -> list[Query]:
    """Those with a right file among the candidates; the others are worth nothing at any weight, and are scored so."""
    kept = []
    for query in queries:
        candidates = by_words.search_now(query.repository, query.text, limit=CANDIDATES)
        if {hit.path for hit in candidates} & set(query.answers):
            kept.append(query)
        else:
            for engine in engines:
                scores[engine][query.kind].append(0.0)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", choices=["tuned", "kept_back"], default="tuned")
    parser.add_argument("--per-repository", type=int, default=150)
    parser.add_argument("--per-kind", type=int, default=50)
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--weights", default="0.25,0.5,0.75,1,1.5")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    roots, queries = corpus(
        arguments.raw, arguments.work, TUNED if arguments.part == "tuned" else KEPT_BACK, arguments.per_repository
    )
    chosen = sampled(queries, arguments.per_kind)
    static, embedder = StaticEmbedder(), Kept(make_embedder(Settings()), arguments.work / "vectors.sqlite")
    weights = [float(weight) for weight in arguments.weights.split(",")]
    engines = [WORDS, STATIC, *(f"weight {weight:g}" for weight in weights)]
    store = LocalIndexStore(arguments.work / "indexes-of-weights")
    scores: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for repository in sorted({query.repository for query in chosen}):
        here = [query for query in chosen if query.repository == repository]
        build(folder_source(roots[repository]), store, IndexName(repository), static)
        reader = store.open(IndexName(repository))
        assert reader is not None
        by_words = late(reader, None, static, arguments.candidates)
        here = hopeful(by_words, here, scores, engines)
        asked(by_words, here, scores[WORDS])
        asked(late(reader, static, static, arguments.candidates), here, scores[STATIC])
        search = late(reader, embedder, embedder, arguments.candidates)
        for engine, weight in zip(engines[2:], weights, strict=True):
            embedder.fusion_weight = weight
            asked(search, here, scores[engine])
        reader.close()
        print(f"{repository}: {len(here)} questions; {embedder.made} chunks embedded so far", flush=True)
    report(embedder, scores)
    embedder.close()
    if arguments.json:
        arguments.json.write_text(json.dumps({"embedder": embedder.name, "scores": scores}))


def report(embedder: Kept, scores: dict[str, defaultdict[str, list[float]]]) -> None:
    speed = f", {embedder.made / embedder.cpu_s:.1f} a second of CPU" if embedder.made else ""
    print(f"{embedder.name}: {embedder.made} chunks embedded{speed}, {embedder.cost_usd:.2f} USD")
    heads = [f"{kind} ({len(scores[WORDS][kind])})" for kind in KINDS]
    print(f"{'NDCG@10 of files':<18}" + "".join(f"{head:>17}" for head in heads) + f"{'mean':>8}")
    for engine, of_kind in scores.items():
        means = [float(np.mean(of_kind[kind])) for kind in KINDS]
        print(f"{engine:<18}" + "".join(f"{mean:>17.3f}" for mean in means) + f"{np.mean(means):>8.3f}")
    for engine in [engine for engine in scores if engine.startswith("weight")]:
        for other in (WORDS, STATIC):
            told = []
            for kind in KINDS:
                mean, low, high = bootstrap(scores[engine][kind], scores[other][kind])
                told.append(f"{kind} {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
            ours, theirs = ([score for kind in KINDS for score in scores[name][kind]] for name in (engine, other))
            mean, low, high = bootstrap(ours, theirs)
            print(f"{engine} - {other}: {'; '.join(told)}; all {mean:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
