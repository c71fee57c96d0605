from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from tests.support.memory_redis import MemoryRedis

from corral.errors import ArtifactNotFound
from corral.jobs.test_execution.artifacts import FoundArtifact, RedisArtifacts, find_artifact
from corral.jobs.test_execution.report import Artifact, TestReport


def file(content: bytes) -> FoundArtifact:
    digest = hashlib.sha256(content).hexdigest()
    artifact = Artifact(path="a/b.png", size_bytes=len(content), sha256=digest, stored_as=f"{digest}.png")
    return FoundArtifact(artifact, content)


def report(*files: FoundArtifact) -> TestReport:
    return TestReport(passed=True, runner="r", command="c", commit="0", artifacts=tuple(one.artifact for one in files))


async def test_what_is_kept_is_found_by_its_job_only() -> None:
    store = RedisArtifacts(MemoryRedis())
    kept, other = file(b"\x00\xffimage"), file(b"other")
    await store.put("demo", [kept, other])
    found = await find_artifact(store, "demo", report(kept), kept.artifact.stored_as)
    assert found == kept
    for project, result, name in (
        ("demo", report(kept), other.artifact.stored_as),
        ("else", report(kept), kept.artifact.stored_as),
        (None, report(kept), kept.artifact.stored_as),
        ("demo", None, kept.artifact.stored_as),
        ("demo", report(kept), "../" + kept.artifact.stored_as),
    ):
        with pytest.raises(ArtifactNotFound):
            await find_artifact(store, project, result, name)


async def test_a_project_has_a_budget_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: now)
    redis = MemoryRedis()
    store = RedisArtifacts(redis, project_bytes=250, ttl=timedelta(seconds=60))
    files = [file(bytes([number]) * 100) for number in range(3)]
    for one in files:
        now += 1_000_000_000
        await store.put("demo", [one])
    assert [await store.get("demo", one.artifact.sha256) for one in files] == [None, files[1].content, files[2].content]
    assert all(span == 60_000 for span in redis.expiries_ms.values())
    now += 100_000_000_000
    await store.put("demo", [files[0]])
    assert [await store.get("demo", one.artifact.sha256) for one in files] == [files[0].content, None, None]
    assert list(redis.values["corral:artifacts:demo"]) == [files[0].artifact.sha256]
