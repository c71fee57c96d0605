"""Measure search: quality (NDCG@10 of files), speed and size, beside semble and plain keyword search, in one run.

    python benchmarks/search/run.py --raw UNPACKED_SOURCE_DISTRIBUTIONS --work SCRATCH \
        [--semble-python ENV/bin/python --semble-model MODEL2VEC_FOLDER] [--codebase-index-python ENV/bin/python] \
        [--part tuned|kept_back] [--only REPOSITORY ...] [--json OUT]

Differences are judged by a paired bootstrap over the queries of a set. Times are of a warm engine and ten hits: each
question asked for the first time (its files' texts may have to be read), and again. They mean something only where the
machine has nothing else to do.
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
TURNS = ("first time", "again")


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
    """What an agent does with grep, at its best: files by BM25 over words as they are written."""
    from corral.jobs.codebase_indexing.languages import language_of

    words_of_file: dict[str, Counter[str]] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_file() and ".git/" not in name and language_of(name):
            text = path.read_text("utf-8", "replace").lower()
            words_of_file[name] = Counter(re.findall(r"[a-z_][a-z0-9_]{2,}", text))
    lengths = {name: words.total() for name, words in words_of_file.items()}
    mean = sum(lengths.values()) / max(1, len(lengths))
    where: defaultdict[str, list[str]] = defaultdict(list)
    for name, words in words_of_file.items():
        for word in words:
            where[word].append(name)

    def ask(query: str) -> list[str]:
        scores: Counter[str] = Counter()
        for word in set(re.findall(r"[a-z_][a-z0-9_]{2,}", query.lower())):
            rarity = math.log(1 + (len(lengths) - len(where[word]) + 0.5) / (len(where[word]) + 0.5))
            for name in where[word]:
                count = words_of_file[name][word]
                scores[name] += rarity * 2.2 * count / (count + 1.2 * (0.25 + 0.75 * lengths[name] / mean))
        return [name for name, _ in sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:10]]

    return ask


def paths_of(hits: list) -> list[str]:
    return list(dict.fromkeys(hit.path for hit in hits))[:10]


def parsed() -> tuple[argparse.Namespace, tuple[str, ...]]:
    """The arguments, and which repositories they mean."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--semble-python", type=Path)
    parser.add_argument("--semble-model", type=Path)
    parser.add_argument("--codebase-index-python", type=Path)
    parser.add_argument("--part", choices=["tuned", "kept_back"], default="tuned")
    parser.add_argument("--only", nargs="+", default=[], help="some repositories of the part")
    parser.add_argument("--per-repository", type=int, default=150)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    part = TUNED if arguments.part == "tuned" else KEPT_BACK
    if unknown := set(arguments.only) - set(part):
        parser.error(f"expected --only from {', '.join(part)}; got {', '.join(sorted(unknown))}")
    return arguments, tuple(name for name in part if not arguments.only or name in arguments.only)


def main() -> None:
    arguments, names = parsed()
    peers = {"semble": arguments.semble_python, "codebase-index": arguments.codebase_index_python}
    roots, queries = corpus(arguments.raw, arguments.work, names, arguments.per_repository)
    by_repository: defaultdict[str, list[Query]] = defaultdict(list)
    for query in queries:
        by_repository[query.repository].append(query)
    embedder = StaticEmbedder()
    scores: defaultdict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    times: defaultdict[str, list[float]] = defaultdict(list)
    cpu_times: defaultdict[str, list[float]] = defaultdict(list)
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
            for query in asked[:20]:
                search.search_now(name, query.text[::-1])  # warm, with nothing that is asked later
            for turn in TURNS:
                for query in asked:
                    began, cpu = time.perf_counter(), time.thread_time()
                    search.search_now(name, query.text)
                    times[f"{engine}, {turn}"].append(time.perf_counter() - began)
                    cpu_times[f"{engine}, {turn}"].append(time.thread_time() - cpu)
            note(engine, asked, [paths_of(search.search_now(name, query.text, limit=30)) for query in asked])
            search.close()
        ask = keyword_engine(root)
        note("keyword", asked, [ask(query.text) for query in asked])
        for peer, python in peers.items():
            if python is None:
                continue
            request = {
                "root": str(root),
                "model": str(arguments.semble_model),
                "cache": str(arguments.work / f"{peer}-cache" / str(time.time_ns())),
                "queries": [query.text for query in asked],
                "turns": TURNS,
            }
            Path(request["cache"]).mkdir(parents=True)
            printed = subprocess.run(
                [str(python), str(Path(__file__).parent / f"{peer.replace('-', '_')}_engine.py")],
                input=json.dumps(request), capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            told = json.loads(printed.splitlines()[-1])
            note(peer, asked, told["answers"])
            for turn, taken in told["times"].items():
                times[f"{peer}, {turn}"] += taken
                cpu_times[f"{peer}, {turn}"] += told["cpu_times"][turn]
            builds[peer][0] += told["build_s"]
            builds[peer][1] += told["build_cpu_s"]
    report(scores, (times, cpu_times), builds, files, lines, size, index_size)
    if arguments.json:
        arguments.json.write_text(json.dumps({"scores": scores, "builds": builds, "times": times, "cpu": cpu_times}))


def report(scores, times, builds, files: int, lines: int, size: int, index_size: int) -> None:  # noqa: ANN001 - a printer
    kinds = sorted({kind for per_kind in scores.values() for kind in per_kind})
    print(f"{files:,} files, {lines:,} lines, {size / 1e6:.1f} MB of source; index {index_size / size:.2f} of it")
    for engine, (wall, cpu) in builds.items():
        print(f"build {engine}: {wall:.1f} s wall, {cpu:.1f} s cpu, {lines / cpu:,.0f} lines/s of cpu")
    print(f"{'NDCG@10 of files':<18}" + "".join(f"{kind:>12}" for kind in kinds))
    for engine, per_kind in scores.items():
        print(f"{engine:<18}" + "".join(f"{np.mean(per_kind[kind]):>12.3f}" for kind in kinds))
    print(f"{'ms a query, 10 hits':<24}" + "".join(f"{name:>10}" for name in ("p50", "p99", "p50 cpu", "p99 cpu")))
    for engine in times[0]:
        row = [float(np.quantile(spent[engine], part)) * 1e3 for spent in times for part in (0.5, 0.99)]
        print(f"{engine:<24}" + "".join(f"{value:>10.2f}" for value in row))
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
