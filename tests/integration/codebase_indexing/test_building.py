"""Indexes built in processes of their own: what repositories hold can't take the worker down."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.integration.codebase_indexing.test_handler import Mirrors, Projects
from tests.integration.codebase_indexing.test_handler import job as job_of
from tests.support.repositories import Repository, git

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import IndexName
from corral.errors import ConfigurationError, ProcessDied
from corral.jobs.codebase_indexing import build as build_module
from corral.jobs.codebase_indexing.building import Built, Order, ProcessBuilder, build_in_process
from corral.jobs.codebase_indexing.chunks import FileChunks, chunk_file
from corral.jobs.codebase_indexing.handler import CodebaseIndexingHandler
from corral.jobs.codebase_indexing.search import CodeSearch
from corral.queue.job import ThreadJob
from corral.settings import Settings
from corral.testing.reporter import RecordingReporter

FILES = {
    "good.py": "def good_one():\n    return 'good'\n",
    "hostile.py": "def hostile_one():\n    return 'hostile'\n",
    "other.py": "def other_one():\n    return 'other'\n",
}


# --- what stands for native code that fails; module-level, for they run in the building process


def _with(hostile: Callable[[str], Any], job: ThreadJob[Order]) -> Built:
    really = chunk_file

    def parse(text: str, language: str) -> FileChunks:
        if "hostile" in text:
            hostile(text)
        return really(text, language)

    with mock.patch.object(build_module, "chunk_file", parse):
        return build_in_process(job)


def segfaulting(job: ThreadJob[Order]) -> Built:
    return _with(lambda _: os.kill(os.getpid(), signal.SIGSEGV), job)


def devouring(job: ThreadJob[Order]) -> Built:
    return _with(lambda _: bytearray(8_000_000_000), job)


def stuck(job: ThreadJob[Order]) -> Built:
    def wait(_: str) -> None:
        (order_folder(job) / "pid").write_text(str(os.getpid()))
        time.sleep(600)

    return _with(wait, job)


def telling(job: ThreadJob[Order]) -> Built:
    built = build_in_process(job)
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    job.log_now(f"pid {os.getpid()} nice {nice} data {resource.getrlimit(resource.RLIMIT_DATA)[0]}")
    return built


def order_folder(job: ThreadJob[Order]) -> Path:
    return job.data.settings.data_dir


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return Settings(_env_file=None, data_dir=tmp_path / "data", index_memory_mb=2000)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "forge", FILES)


Body = Callable[[ThreadJob[Order]], Built]
Make = Callable[[ProcessBuilder], CodebaseIndexingHandler]


@pytest.fixture
async def handler(repository: Repository, settings: Settings) -> AsyncIterator[Make]:
    made: list[ProcessBuilder] = []

    def make(builder: ProcessBuilder) -> CodebaseIndexingHandler:
        made.append(builder)
        store = LocalIndexStore(settings.data_dir / "indexes")
        return CodebaseIndexingHandler(Projects(), Mirrors(repository.bare), builder, store)

    yield make
    for builder in made:
        await builder.close()


def paths(settings: Settings, query: str) -> list[str]:
    search = CodeSearch(LocalIndexStore(settings.data_dir / "indexes"), StaticEmbedder())
    try:
        return [hit.path for hit in search.search_now("shop", query)]
    finally:
        search.close()


async def test_a_process_builds_within_limits_and_is_used_again(
    settings: Settings, handler: Make, repository: Repository
) -> None:
    handle = handler(ProcessBuilder(settings, body=telling))
    first, second = RecordingReporter(), RecordingReporter()
    result = await handle(job_of(first))
    assert (result.files, result.reused) == (3, 0)
    assert first.last_percent == 100
    repository.commit({"new.py": "def brand_new(): pass\n"})
    assert (await handle(job_of(second))).reused == 3
    told = [next(line for line in reporter.log_lines if line.startswith("pid")) for reporter in (first, second)]
    assert told[0] == told[1], "one process, with the same limits"
    assert told[0].endswith("nice 10 data 2000000000")
    assert f"pid {os.getpid()} " not in told[0]
    assert os.getpriority(os.PRIO_PROCESS, 0) < 10
    assert paths(settings, "brand_new") == ["new.py"]


@pytest.mark.parametrize("body", [segfaulting, devouring])
async def test_a_file_that_brings_the_process_down_is_left_out(
    body: Body, settings: Settings, handler: Make, repository: Repository
) -> None:
    handle = handler(ProcessBuilder(settings, body=body))
    reporter = RecordingReporter()
    result = await handle(job_of(reporter))
    assert (result.files, result.skipped) == (2, {"crashed": 1})
    assert any("'hostile.py'" in line and "left out" in line for line in reporter.log_lines)
    assert paths(settings, "other_one")[0] == "other.py"
    # It stays left out while it is what it was, and nothing crashes again.
    repository.commit({"new.py": "def brand_new(): pass\n"})
    again = RecordingReporter()
    assert (await handle(job_of(again))).skipped == {"crashed": 1}
    assert not any("left out" in line for line in again.log_lines)


async def test_one_crash_after_another_fails_the_job_and_leaves_the_index(
    settings: Settings, handler: Make, repository: Repository
) -> None:
    handle = handler(ProcessBuilder(settings, body=segfaulting))
    await handle(job_of(RecordingReporter()))
    repository.commit({f"hostile{number}.py": f"hostile = {number}\n" for number in range(9)})
    with pytest.raises(ProcessDied, match="SIGSEGV"):
        await handle(job_of(RecordingReporter()))
    assert paths(settings, "good_one")[0] == "good.py"


async def test_cancelling_kills_the_process_and_leaves_the_index(
    settings: Settings, handler: Make, repository: Repository
) -> None:
    running = asyncio.create_task(handler(ProcessBuilder(settings, body=stuck))(job_of(RecordingReporter())))
    marker = settings.data_dir / "pid"
    while not (marker.exists() and marker.read_text()):
        await asyncio.sleep(0.02)
        assert not running.done()
    pid = int(marker.read_text())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]:
        await asyncio.sleep(0.02)
    store = LocalIndexStore(settings.data_dir / "indexes")
    assert store.open(IndexName("shop")) is None
    result = await handler(ProcessBuilder(settings))(job_of(RecordingReporter()))
    assert (result.files, result.commit) == (3, git(repository.bare, "rev-parse", "main"))


async def test_errors_come_over_as_themselves(tmp_path: Path, handler: Make) -> None:
    wrong = Settings(_env_file=None, data_dir=tmp_path, index_store="nowhere")
    with pytest.raises(ConfigurationError, match="expected CORRAL_INDEX_STORE"):
        await handler(ProcessBuilder(wrong))(job_of(RecordingReporter()))


async def test_secrets_are_starred_out_by_the_scanner_and_counted(
    settings: Settings, handler: Make, repository: Repository
) -> None:
    pytest.importorskip("betterleaks")
    key = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"  # made up, and in two parts so that nobody's scanner stops at it
    address = "postgresql://shop:" + "Tr0ub4dor3xQ9" + "@db.example.com/shop"
    repository.commit(
        {
            "pay.py": f'def charge_card():\n    stripe_key = "{key}"\n    return stripe_key\n',
            "db.py": f'URL = "{address}"\n',
        }
    )
    result = await handler(ProcessBuilder(settings))(job_of(RecordingReporter()))
    assert result.secrets_masked >= 1
    assert paths(settings, "charge_card")[0] == "pay.py"
    for path in (settings.data_dir / "indexes").rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes()
    reader = LocalIndexStore(settings.data_dir / "indexes").open(IndexName("shop"))
    assert reader is not None
    (chunk,) = reader.file_chunks("pay.py")
    assert chunk.text == 'def charge_card():\n    stripe_key = "***"\n    return stripe_key'
    reader.close()


async def test_a_hostile_repository_is_indexed_in_its_process(
    settings: Settings, handler: Make, repository: Repository, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("def zzyzx(): pass\n")
    work = tmp_path / "work"
    git(tmp_path, "clone", "-q", str(repository.bare), str(work))
    (work / "new\nline.py").write_text("def odd_named(): pass\n")
    (work / os.fsdecode(b"latin\xe9.py")).write_text("def latin_named(): pass\n")
    for name, opening, closing in (("a.json", "[", "]"), ("b.js", "(", ")"), ("c.py", "(", ")"), ("d.c", "{", "}")):
        (work / f"nested_{name}").write_text(opening * 3000 + closing * 3000)
    (work / "nested_e.py").write_text("".join(" " * depth + "if x:\n" for depth in range(3000)) + " " * 3000 + "pass\n")
    (work / "line.py").write_text("x = '" + "a b " * 240_000 + "'\n")
    (work / "out.py").symlink_to(outside)
    (work / "up").symlink_to("../..")
    (work / "wide.py").write_bytes("def wide_thing(): pass\n".encode("utf-16"))
    (work / "old.py").write_bytes("# caf\xe9\ndef old_thing(): pass\n".encode("latin-1"))
    (work / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = ext::sh -c "touch /tmp/never"\n')
    (work / ".gitattributes").write_text("* filter=evil diff=evil\n")
    git(work, "add", "-A")
    git(work, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "hostile")
    git(work, "push", "-q", "origin", "HEAD:main")
    reporter = RecordingReporter()
    result = await handler(ProcessBuilder(settings))(job_of(reporter))
    assert not any("left out" in line for line in reporter.log_lines), "nothing crashed"
    assert result.skipped["symlink"] == 2
    assert paths(settings, "zzyzx") == []
    for query, path in (
        ("odd_named", "new\nline.py"),
        ("latin_named", "latin\\xe9.py"),
        ("wide_thing", "wide.py"),
        ("old_thing", "old.py"),
        ("good_one", "good.py"),
    ):
        assert paths(settings, query)[0] == path
