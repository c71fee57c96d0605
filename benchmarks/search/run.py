"""Measure search: quality (NDCG@10 of files), speed and size, beside semble and plain keyword search, in one run.

    python benchmarks/search/run.py --raw UNPACKED_SOURCE_DISTRIBUTIONS --work SCRATCH \
        [--semble-python ENV/bin/python --semble-model MODEL2VEC_FOLDER] [--part tuned|kept_back] [--json OUT]

Differences are judged by a paired bootstrap over the queries of a set.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "src"), str(Path(__file__).resolve().parent)]
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 - the paths come first
from corpus import KEPT_BACK, SEED, TUNED, Query, hand_written, prepare  # noqa: E402

from corral.adapters.embedder.static import StaticEmbedder  # noqa: E402
from corral.adapters.index.local import LocalIndexStore  # noqa: E402
from corral.adapters.index.port import IndexName  # noqa: E402
from corral.jobs.codebase_indexing.build import build  # noqa: E402
from corral.jobs.codebase_indexing.search import CodeSearch  # noqa: E402
from corral.jobs.codebase_indexing.source import folder_source  # noqa: E402

Answers = list[list[str]]


def ndcg(answer: list[str], right: tuple[str, ...]) -> float:
    gained = sum(1 / math.log2(rank + 2) for rank, path in enumerate(answer[:10]) if path in right)
    best = sum(1 / math.log2(rank + 2) for rank in range(min(len(right), 10)))
    return gained / best


def bootstrap(one: list[float], other: list[float], rounds: int = 4000) -> tuple[float, float, float]:
    """Mean difference and its 95 % interval, resampling queries."""
    difference = np.array(one) - np.array(other)
    random = np.random.default_rng(1)
    means = difference[random.integers(0, len(difference), (rounds, len(difference)))].mean(axis=1)
    return float(difference.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def corpus(raw: Path, work: Path, names: tuple[str, ...], per_repository: int) -> tuple[dict[str, Path], list[Query]]:
    kept = work / "corpus"
    listing = kept / f"queries-{per_repository}.json"
    roots = {name: kept / name for name in names}
    stored: dict[str, list[dict]] = json.loads(listing.read_text()) if listing.exists() else {}
    for name in names:
        if name not in stored:
            shutil.rmtree(roots[name], ignore_errors=True)
            stored[name] = [asdict(query) for query in prepare(raw / name, roots[name], per_repository, seed=SEED)]
            listing.parent.mkdir(parents=True, exist_ok=True)
            listing.write_text(json.dumps(stored))
    queries = [
        Query(query["kind"], query["repository"], query["text"], tuple(query["answers"]))
        for name in names
        for query in stored[name]
    ]
    queries += [query for query in hand_written(Path(__file__).parent / "questions.tsv") if query.repository in names]
    return roots, queries


def keyword_engine(root: Path) -> Callable[[str], list[str]]:
    """What an agent does with grep: files by how many of the question's words they hold, rare words first."""
    from corral.jobs.codebase_indexing.languages import language_of

    texts = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_file() and ".git/" not in name and language_of(name):
            texts[name] = path.read_text("utf-8", "replace").lower()
    words_of_file = {name: set(re.findall(r"[a-z_][a-z0-9_]{2,}", text)) for name, text in texts.items()}
    spread: Counter[str] = Counter(word for words in words_of_file.values() for word in words)

    def ask(query: str) -> list[str]:
        asked = set(re.findall(r"[a-z_][a-z0-9_]{2,}", query.lower()))
        rare = {word: math.log(len(texts) / spread[word]) for word in asked if word in spread}
        scored = [
            (sum(rare.get(word, 0.0) * (1 + math.log(texts[name].count(word))) for word in asked & words), name)
            for name, words in words_of_file.items()
        ]
        return [name for score, name in sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:10] if score > 0]

    return ask


def paths_of(hits: list) -> list[str]:
    return list(dict.fromkeys(hit.path for hit in hits))[:10]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--semble-python", type=Path)
    parser.add_argument("--semble-model", type=Path)
    parser.add_argument("--part", choices=["tuned", "kept_back"], default="tuned")
    parser.add_argument("--per-repository", type=int, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names = TUNED if arguments.part == "tuned" else KEPT_BACK
    roots, queries = corpus(arguments.raw, arguments.work, names, arguments.per_repository)
    by_repository: defaultdict[str, list[Query]] = defaultdict(list)
    for query in queries:
        by_repository[query.repository].append(query)
    embedder = StaticEmbedder()
    scores: defaultdict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    times: defaultdict[str, list[float]] = defaultdict(list)
    builds: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    lines = size = index_size = files = 0

    def note(engine: str, asked: list[Query], answers: Answers) -> None:
        for query, answer in zip(asked, answers, strict=True):
            scores[engine][query.kind].append(ndcg(answer, query.answers))

    store = LocalIndexStore(arguments.work / "indexes")
    shutil.rmtree(arguments.work / "indexes", ignore_errors=True)
    for name, asked in by_repository.items():
        root = roots[name]
        began, cpu = time.perf_counter(), time.process_time()
        done = build(folder_source(root), store, IndexName(name), embedder)
        builds["corral"][0] += time.perf_counter() - began
        builds["corral"][1] += time.process_time() - cpu
        files += done.state.files
        folder = store.folder(IndexName(name))
        index_size += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        reader = store.open(IndexName(name))
        assert reader is not None
        for path in reader.files():
            if reader.file(path):
                text = (root / path).read_bytes()
                lines += text.count(b"\n")
                size += len(text)
        reader.close()
        for engine, search in (
            ("corral", CodeSearch(store, embedder)),
            ("words alone", CodeSearch(store, None)),
        ):
            answers = []
            search.search_now(name, "warm up", limit=30)
            for query in asked:
                began = time.perf_counter()
                hits = search.search_now(name, query.text, limit=30)
                times[engine].append(time.perf_counter() - began)
                answers.append(paths_of(hits))
            search.close()
            note(engine, asked, answers)
        ask = keyword_engine(root)
        note("keyword", asked, [ask(query.text) for query in asked])
        if arguments.semble_python:
            request = {
                "root": str(root),
                "model": str(arguments.semble_model),
                "cache": str(arguments.work / "semble-cache" / str(time.time_ns())),
                "queries": [query.text for query in asked],
            }
            Path(request["cache"]).mkdir(parents=True)
            printed = subprocess.run(
                [str(arguments.semble_python), str(Path(__file__).parent / "semble_engine.py")],
                input=json.dumps(request), capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            told = json.loads(printed.splitlines()[-1])
            note("semble", asked, told["answers"])
            times["semble"] += told["times"]
            builds["semble"][0] += told["build_s"]
            builds["semble"][1] += told["build_cpu_s"]
    report(scores, times, builds, files, lines, size, index_size)
    if arguments.json:
        arguments.json.write_text(json.dumps({"scores": scores, "builds": builds}))


def report(scores, times, builds, files: int, lines: int, size: int, index_size: int) -> None:  # noqa: ANN001 - a printer
    kinds = sorted({kind for per_kind in scores.values() for kind in per_kind})
    print(f"{files:,} files, {lines:,} lines, {size / 1e6:.1f} MB of source; index {index_size / size:.2f} of it")
    for engine, (wall, cpu) in builds.items():
        print(f"build {engine}: {wall:.1f} s wall, {cpu:.1f} s cpu, {lines / cpu:,.0f} lines/s of cpu")
    print(f"{'NDCG@10 of files':<18}" + "".join(f"{kind:>12}" for kind in kinds) + f"{'p50 ms':>10}{'p99 ms':>10}")
    for engine, per_kind in scores.items():
        row = "".join(f"{np.mean(per_kind[kind]):>12.3f}" for kind in kinds)
        spent = sorted(times.get(engine, [0.0]))
        p50, p99 = spent[len(spent) // 2] * 1e3, spent[int(len(spent) * 0.99)] * 1e3
        print(f"{engine:<18}{row}{p50:>10.2f}{p99:>10.2f}")
    for other in scores:
        if other != "corral":
            for kind in kinds:
                mean, low, high = bootstrap(scores["corral"][kind], scores[other][kind])
                verdict = "ahead" if low > 0 else ("behind" if high < 0 else "no difference")
                print(
                    f"corral - {other}, {kind} (n={len(scores[other][kind])}): {mean:+.3f} "
                    f"[{low:+.3f}, {high:+.3f}] {verdict}"
                )


if __name__ == "__main__":
    main()
