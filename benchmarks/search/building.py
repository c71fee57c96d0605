"""Measure building an index: beside semble, after one change, after none, and the memory of a build, of one after a
change and of a search over 5,000 and 50,000 files.

    python benchmarks/search/building.py --work SCRATCH REPOSITORY... \
        [--semble-python ENV/bin/python --semble-model MODEL2VEC_FOLDER] [--parts builds,changes,memory]

Each REPOSITORY is a git worktree (``run.py`` leaves them in ``SCRATCH/corpus``). Every build runs in a process of its
own; processor time is that of the process and its children, so git's counts. Walls are told beside it, but on a busy
machine only processor time compares.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

SIZES = (5_000, 50_000)
ROUNDS = 24
QUESTIONS = 300
NAME = "bench"


def cpu() -> float:
    """Seconds of this process and of its children that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def memory_mb(*names: str) -> float:
    """Sum of some lines of this process's status: ``VmHWM`` is its peak, ``RssAnon`` what it wrote, ``RssFile`` what of
    mapped files it has read and the kernel may drop. (``ru_maxrss`` may be the peak of the process that began it.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    told = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return sum(int(told[name][0]) for name in names) / 1024


def one_build(root: Path, out: Path) -> dict[str, Any]:
    """Build from nothing, in this process."""
    from corral.adapters.embedder.static import StaticEmbedder
    from corral.adapters.index.local import LocalIndexStore
    from corral.adapters.index.port import IndexName
    from corral.jobs.codebase_indexing.build import build
    from corral.jobs.codebase_indexing.source import folder_source

    store, embedder, name = LocalIndexStore(out), StaticEmbedder(), IndexName(NAME)
    before, began = cpu(), time.perf_counter()
    state = build(folder_source(root), store, name, embedder).state
    spent, wall = cpu() - before, time.perf_counter() - began
    peak = memory_mb("VmHWM")
    reader = store.open(name)
    assert reader is not None
    texts = [(root / path).read_bytes() for path in reader.files() if reader.file(path)]
    reader.close()
    return {
        "cpu": spent,
        "wall": wall,
        "peak_mb": peak,
        "files": state.files,
        "chunks": state.chunks,
        "lines": sum(text.count(b"\n") for text in texts),
        "source": sum(map(len, texts)),
        "size": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    }


def one_change(root: Path, out: Path) -> dict[str, Any]:
    """Build again after one file has changed, in this process."""
    from corral.adapters.embedder.static import StaticEmbedder
    from corral.adapters.index.local import LocalIndexStore
    from corral.adapters.index.port import IndexName
    from corral.jobs.codebase_indexing.build import build
    from corral.jobs.codebase_indexing.source import folder_source

    path = next(path for path in sorted(root.rglob("*.py")) if 2_000 < path.stat().st_size < 40_000)
    path.write_text(path.read_text("utf-8", "replace") + "\n\ndef quaggazebra():\n    return 0\n")
    before, began = cpu(), time.perf_counter()
    done = build(folder_source(root), LocalIndexStore(out), IndexName(NAME), StaticEmbedder())
    spent, wall = cpu() - before, time.perf_counter() - began
    assert done.indexed == 1
    return {"cpu": spent, "wall": wall, "peak_mb": memory_mb("VmHWM")}


def one_search(root: Path, out: Path) -> dict[str, Any]:
    """Open an index and ask it, in this process."""
    from corral.adapters.embedder.static import StaticEmbedder
    from corral.adapters.index.local import LocalIndexStore
    from corral.adapters.index.port import IndexName
    from corral.jobs.codebase_indexing.search import CodeSearch

    store = LocalIndexStore(out)
    search = CodeSearch(store, StaticEmbedder())
    before = memory_mb("RssAnon"), memory_mb("RssFile")
    reader = store.open(IndexName(NAME))
    assert reader is not None
    opened = memory_mb("RssAnon"), memory_mb("RssFile")
    listed = sorted(reader.files())
    reader.close()
    changed = str(next(path for path in sorted(root.rglob("*.py")) if b"quaggazebra" in path.read_bytes()))
    assert search.search_now(NAME, "quaggazebra", limit=1)[0].path == str(Path(changed).relative_to(root))
    for path in listed[:: max(1, len(listed) // QUESTIONS)]:
        search.search_now(NAME, " ".join(path.replace("_", " ").replace("/", " ").split()[-3:]), limit=10)
    asked = memory_mb("RssAnon"), memory_mb("RssFile")
    search.close()
    return {"before": before, "opened": opened, "asked": asked}


ONE = {"build": one_build, "change": one_change, "search": one_search}
"""What is measured in a process of its own."""


def alone(what: str, root: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--work", str(out), "--one", what, str(root)]
    told: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return told


def own(root: Path, work: Path) -> dict[str, Any]:
    out = work / "index"
    shutil.rmtree(out, ignore_errors=True)
    told = alone("build", root, out)
    shutil.rmtree(out)
    return told


def semble(root: Path, work: Path, python: Path, model: Path) -> dict[str, Any]:
    cache = work / "semble-cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    request = {"root": str(root), "model": str(model), "cache": str(cache), "queries": [], "turns": []}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    printed = subprocess.run(
        [str(python), str(Path(__file__).parent / "semble_engine.py")],
        input=json.dumps(request), capture_output=True, text=True, check=True, env=environment,
    ).stdout  # fmt: skip
    told: dict[str, Any] = json.loads(printed.splitlines()[-1])
    shutil.rmtree(cache)
    return told


def builds(roots: Sequence[Path], work: Path, python: Path | None, model: Path | None) -> None:
    total: dict[str, float] = dict.fromkeys(("cpu", "semble", "size", "source", "lines", "files"), 0)
    for root in roots:
        told = own(root, work)
        theirs = semble(root, work, python, model) if python and model else None
        for key in ("cpu", "size", "source", "lines", "files"):
            total[key] += told[key]
        line = f"{root.name:22}{told['files']:>7,} files {told['lines']:>9,} lines {told['cpu']:6.2f} s of CPU"
        line += f"  index {told['size'] / told['source']:.2f} of the source  peak {told['peak_mb']:.0f} MB"
        if theirs:
            total["semble"] += theirs["build_cpu_s"]
            line += f"  semble {theirs['build_cpu_s']:6.2f} s ({theirs['build_cpu_s'] / told['cpu']:.2f} times)"
            line += f" peak {theirs['rss_mb']:.0f} MB"
        print(line, flush=True)
    print(
        f"all: {total['files']:,.0f} files, {total['lines']:,.0f} lines, {total['cpu']:.2f} s of CPU "
        f"({total['lines'] / total['cpu']:,.0f} lines/s), index {total['size'] / total['source']:.3f} of the source"
        + (f", semble {total['semble']:.2f} s: {total['semble'] / total['cpu']:.2f} times" if total["semble"] else "")
    )


def grown(roots: Sequence[Path], target: Path, files: int) -> Path:
    """A repository of so many files: those of the others, again and again with other names and another last line."""
    if target.exists():
        return target
    from corral.jobs.codebase_indexing.rules import skip_by_path

    def originals() -> Iterator[tuple[str, bytes]]:
        for root in roots:
            for path in sorted(root.rglob("*")):
                name = f"{root.name}/{path.relative_to(root)}"
                if ".git/" not in name and path.is_file() and not skip_by_path(name) and path.stat().st_size < 200_000:
                    yield name, path.read_bytes()

    made = 0
    for turn in itertools.count():
        for name, content in originals():
            path = target / f"copy{turn}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            changed = content.replace(b"self", b"own%d" % turn) if turn else content
            path.write_bytes(changed.rstrip() + b"\n" + (b"# %d\n" % turn if name.endswith(".py") else b""))
            made += 1
            if made == files:
                break
        if made == files:
            break
    git = ["git", "-C", str(target), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "grown"]):
        subprocess.run([*git, "-c", "core.compression=1", *command], check=True)
    return target


def changes(roots: Sequence[Path], work: Path) -> None:
    from corral.adapters.embedder.static import StaticEmbedder
    from corral.adapters.index.local import LocalIndexStore
    from corral.adapters.index.port import IndexName
    from corral.jobs.codebase_indexing.build import build
    from corral.jobs.codebase_indexing.search import CodeSearch
    from corral.jobs.codebase_indexing.source import folder_source

    root = grown(roots, work / f"grown-{SIZES[0]}", SIZES[0])
    out = work / "changes-index"
    shutil.rmtree(out, ignore_errors=True)
    store, embedder, name = LocalIndexStore(out), StaticEmbedder(), IndexName(NAME)
    print(f"{build(folder_source(root), store, name, embedder).state.files:,} files")
    search = CodeSearch(store, embedder)
    times: dict[str, list[tuple[float, float]]] = {}

    def timed(what: str, do: Callable[[], Any]) -> Any:
        before, began = cpu(), time.perf_counter()
        done = do()
        times.setdefault(what, []).append(((time.perf_counter() - began) * 1e3, (cpu() - before) * 1e3))
        return done

    status = ["git", "-C", str(root), "status", "--porcelain"]
    sources = sorted(path for path in root.rglob("*.py") if 2_000 < path.stat().st_size < 40_000)
    for turn, path in enumerate(sources[:: len(sources) // ROUNDS][:ROUNDS]):
        word = f"quagga{string.ascii_lowercase[turn]}zebra"
        path.write_text(path.read_text("utf-8", "replace") + f"\n\ndef {word}():\n    return {turn}\n")
        done = timed("one file changed", lambda: build(folder_source(root), store, name, embedder))
        assert done.indexed == 1
        hits = timed("the next question", lambda: search.search_now(NAME, word, limit=3))  # noqa: B023
        assert hits[0].path == str(path.relative_to(root))
        done = timed("nothing changed", lambda: build(folder_source(root), store, name, embedder))
        assert not done.changed
        timed("git status", lambda: subprocess.run(status, capture_output=True, check=True))
    search.close()
    subprocess.run(["git", "-C", str(root), "checkout", "-q", "."], check=True)
    for what, pairs in times.items():
        walls, spent = zip(*pairs, strict=True)
        print(
            f"{what:20} wall p50 {statistics.median(walls):6.1f} best {min(walls):6.1f} worst {max(walls):6.1f} ms; "
            f"CPU p50 {statistics.median(spent):6.1f} worst {max(spent):6.1f} ms"
        )
    shutil.rmtree(out)


def memory(roots: Sequence[Path], work: Path) -> None:
    out = work / "memory-index"
    peaks = []
    for files in SIZES:
        root = grown(roots, work / f"grown-{files}", files)
        shutil.rmtree(out, ignore_errors=True)
        built = alone("build", root, out)
        peaks.append(built["peak_mb"])
        try:
            changed, searched = alone("change", root, out), alone("search", root, out)
        finally:
            subprocess.run(["git", "-C", str(root), "checkout", "-q", "."], check=True)
        print(
            f"{built['files']:,} files, {built['source'] / 1e6:.0f} MB, {built['chunks']:,} chunks, index "
            f"{built['size'] / built['source']:.2f} of the source: peak {built['peak_mb']:.0f} MB, {built['cpu']:.0f} "
            f"s of CPU; after one change peak {changed['peak_mb']:.0f} MB, {changed['cpu'] * 1e3:.0f} ms of CPU"
        )
        for what in ("before", "opened", "asked"):
            own_mb, mapped_mb = searched[what]
            print(f"  search, {what:7}: {own_mb:4.0f} MB of its own, {mapped_mb:4.0f} MB of mapped files", flush=True)
    shutil.rmtree(out)
    print(f"the peak over {SIZES[1]:,} files is {peaks[1] / peaks[0]:.2f} times that over {SIZES[0]:,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("repositories", type=Path, nargs="*")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--semble-python", type=Path)
    parser.add_argument("--semble-model", type=Path)
    parser.add_argument("--parts", default="builds,changes,memory")
    parser.add_argument("--one", choices=sorted(ONE), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(ONE[arguments.one](arguments.repositories[0], arguments.work)))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts.split(","):
        if part == "builds":
            builds(arguments.repositories, arguments.work, arguments.semble_python, arguments.semble_model)
        elif part == "changes":
            changes(arguments.repositories, arguments.work)
        elif part == "memory":
            memory(arguments.repositories, arguments.work)
        else:
            parser.error(f"expected builds, changes or memory, got {part!r}")


if __name__ == "__main__":
    main()
