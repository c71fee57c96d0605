"""How often a task's context holds the right file: by the index and by keyword search, budget for budget.

    python benchmarks/search/context.py --raw UNPACKED_SOURCE_DISTRIBUTIONS --work SCRATCH [--history GIT_REPOSITORY]

Two sets of tasks. *holes*: a documented Python function is cut out of its file, and the task is its documentation's
first paragraph: the right file is the one that it was in. *history*: the subject of a commit of ``--history``, asked of
the tree some commits before it; the right files are the source files that the commit changed and that were there.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import math
import os
import random
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "src"), str(Path(__file__).resolve().parent)]
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 - the paths come first
from corpus import KEPT_BACK, SEED, is_test  # noqa: E402

from corral.adapters.embedder.static import StaticEmbedder  # noqa: E402
from corral.adapters.index.local import LocalIndexStore  # noqa: E402
from corral.adapters.index.port import IndexName  # noqa: E402
from corral.jobs.codebase_indexing.build import build  # noqa: E402
from corral.jobs.codebase_indexing.languages import language_of  # noqa: E402
from corral.jobs.codebase_indexing.search import CodeSearch, token_estimate  # noqa: E402
from corral.jobs.codebase_indexing.source import folder_source  # noqa: E402

BUDGETS = (1000, 2000, 4000, 8000)
_WINDOW_LINES = 40
_PER_REPOSITORY = 60
_EVERY = 8  # commits from one tree of the history to the next

Context = Callable[[str, int], list[str]]
"""A task and a budget in tokens to the files that the context shows a part of."""


@dataclass(frozen=True)
class Task:
    prompt: str
    files: frozenset[str]


def keyword_context(root: Path) -> Context:
    """Windows of lines by BM25 over words as they are written, best first, until the budget is used."""
    windows: list[tuple[str, str, Counter[str], int]] = []
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not path.is_file() or path.is_symlink() or ".git/" in name or not language_of(name):
            continue
        lines = path.read_text("utf-8", "replace").split("\n")
        for begin in range(0, len(lines), _WINDOW_LINES):
            text = "\n".join(lines[begin : begin + _WINDOW_LINES])
            words = Counter(re.findall(r"[a-z_][a-z0-9_]{2,}", text.lower()))
            windows.append((name, text, words, sum(words.values())))
    where: defaultdict[str, list[int]] = defaultdict(list)
    for number, (_, _, words, _) in enumerate(windows):
        for word in words:
            where[word].append(number)
    mean = sum(length for *_, length in windows) / max(1, len(windows))

    def ask(prompt: str, budget: int) -> list[str]:
        scores: Counter[int] = Counter()
        for word in set(re.findall(r"[a-z_][a-z0-9_]{2,}", prompt.lower())):
            rarity = math.log(1 + (len(windows) - len(where[word]) + 0.5) / (len(where[word]) + 0.5))
            for number in where[word]:
                _, _, words, length = windows[number]
                scores[number] += rarity * 2.2 * words[word] / (words[word] + 1.2 * (0.25 + 0.75 * length / mean))
        shown = []
        for number, _ in scores.most_common(200):
            name, text, _, _ = windows[number]
            budget -= token_estimate(text)
            if budget < 0:
                break
            shown.append(name)
        return shown

    return ask


def index_context(
    store: LocalIndexStore, name: str, root: Path, embedder: StaticEmbedder
) -> tuple[Context, CodeSearch]:
    build(folder_source(root), store, IndexName(name), embedder)
    search = CodeSearch(store, embedder)

    def ask(prompt: str, budget: int) -> list[str]:
        return [hit.path for hit in asyncio.run(search.context(name, prompt, max_tokens=budget))]

    return ask, search


def holes(raw: Path, out: Path) -> list[Task]:
    """Copy a repository without some documented functions; each is a task."""
    choice = random.Random(SEED)
    found: list[tuple[str, int, int, str]] = []
    sources = {
        str(path.relative_to(raw)): path.read_text("utf-8", "replace")
        for path in sorted(raw.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.suffix in {".py", ".js", ".ts", ".rst", ".md", ".c", ".h"}
        and path.stat().st_size < 1_000_000
    }  # fmt: skip
    for name, text in sources.items():
        if name.endswith(".py") and not is_test(name) and "example" not in name and "docs/" not in name:
            found += [(name, *hole) for hole in _functions(text)]
    choice.shuffle(found)
    taken: dict[str, tuple[int, int, str]] = {}
    for name, first, last, prompt in found:
        if len(taken) < _PER_REPOSITORY:
            taken.setdefault(name, (first, last, prompt))  # one of a file, so that much of it stays
    for name, text in sources.items():
        lines = text.split("\n")
        if name in taken:
            first, last, _ = taken[name]
            del lines[first - 1 : last]
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(lines))
    return [Task(prompt, frozenset({name})) for name, (_, _, prompt) in taken.items()]


def _functions(text: str) -> Iterator[tuple[int, int, str]]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            prompt = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())[:400]
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            last = node.end_lineno or first
            if len(prompt.split()) >= 6 and last - first >= 8:
                yield first, last, prompt


def history(repository: Path, work: Path) -> Iterator[tuple[Path, list[Task]]]:
    """Trees of a repository's past, each with the commits that came next as tasks."""
    git = ["git", "-C", str(repository)]
    listing = [*git, "rev-list", "--reverse", "--no-merges", "--topo-order", "HEAD"]
    commits = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    for begin in range(_EVERY, len(commits), _EVERY):
        tree = work / f"history-{begin}"
        tree.mkdir(parents=True)
        archive = subprocess.run([*git, "archive", commits[begin - 1]], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
        tasks = []
        for commit in commits[begin : begin + _EVERY]:
            subject, *changed = subprocess.run(
                [*git, "show", "--format=%s", "--name-status", "--no-renames", commit],
                capture_output=True, text=True, check=True,
            ).stdout.split("\n")  # fmt: skip
            paths = [line.split("\t")[1] for line in changed if line.startswith("M\t")]
            files = {path for path in paths if not is_test(path) and path.endswith((".py", ".js", ".ts", ".go", ".rs"))}
            files = {path for path in files if (tree / path).is_file()}
            if 1 <= len(files) <= 6:
                tasks.append(Task(subject, frozenset(files)))
        yield tree, tasks


def interval(one: list[float], other: list[float], rounds: int = 4000) -> tuple[float, float, float]:
    """Mean difference and its 95 % interval, resampling tasks."""
    difference = np.array(one) - np.array(other)
    drawn = np.random.default_rng(1).integers(0, len(difference), (rounds, len(difference)))
    means = difference[drawn].mean(axis=1)
    return float(difference.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--history", type=Path)
    arguments = parser.parse_args()
    work = arguments.work / "context"
    shutil.rmtree(work, ignore_errors=True)
    embedder = StaticEmbedder()
    store = LocalIndexStore(work / "indexes")
    sets: dict[str, list[tuple[Path, list[Task]]]] = {"holes": []}
    for name in KEPT_BACK:
        tasks = holes(arguments.raw / name, work / name)
        if tasks:
            sets["holes"].append((work / name, tasks))
    if arguments.history:
        sets["history"] = list(history(arguments.history, work))
    for kind, trees in sets.items():
        held: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        for tree, tasks in trees:
            by_index, search = index_context(store, f"p{zlib.crc32(str(tree).encode())}", tree, embedder)
            engines = {"index": by_index, "keyword": keyword_context(tree)}
            for engine, ask in engines.items():
                for budget in BUDGETS:
                    shown = [set(ask(task.prompt, budget)) for task in tasks]
                    held[engine, budget] += [
                        len(files & task.files) / len(task.files) for files, task in zip(shown, tasks, strict=True)
                    ]
            search.close()
        print(f"{kind}: {len(held['index', BUDGETS[0]])} tasks; share of the right files that the context shows")
        for budget in BUDGETS:
            one, other = held["index", budget], held["keyword", budget]
            mean, low, high = interval(one, other)
            print(
                f"  {budget:>5} tokens: index {np.mean(one):.3f}, keyword {np.mean(other):.3f}, "
                f"difference {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            )


if __name__ == "__main__":
    main()
