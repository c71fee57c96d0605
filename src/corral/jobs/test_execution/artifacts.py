"""Files that test runs left (screenshots, reports), kept where every worker and face can read them.

Wire:
    ``{prefix}:artifact:{project}:{sha256}``  STRING  base64 of the content, with a time to live
    ``{prefix}:artifacts:{project}``          HASH    sha256 → ``stored at, in ms:bytes:sha256``; the project's budget
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from corral.adapters.sandbox.port import MIB
from corral.errors import ArtifactNotFound
from corral.jobs.test_execution.report import Artifact, TestReport
from corral.wire.commands import RedisCommands, text

_NAME = re.compile(r"^([0-9a-f]{64})(?:\.[a-z0-9]{1,8})?$")


@dataclass(frozen=True, slots=True)
class FoundArtifact:
    """One kept file. Its content was written by untrusted code: never show it as a page of one's own."""

    artifact: Artifact
    content: bytes


class ArtifactStore(Protocol):
    """Keeps artifacts: for a while, and within a budget for each project."""

    async def put(self, project_id: str, found: Sequence[FoundArtifact]) -> None:
        """Keep some files of a project; the oldest go when the project's budget is full."""
        ...

    async def get(self, project_id: str, sha256: str) -> bytes | None:
        """The content of a kept file; None when it is not, or no longer, kept."""
        ...


class RedisArtifacts:
    """Artifacts in Redis.

    Args:
        redis: A connected client.
        prefix: Start of the keys.
        ttl: How long one is kept after it was last stored.
        project_bytes: How much each project may have.
    """

    def __init__(
        self,
        redis: RedisCommands,
        *,
        prefix: str = "corral",
        ttl: timedelta = timedelta(days=2),
        project_bytes: int = 64 * MIB,
    ) -> None:
        self._redis = redis
        self._prefix = prefix
        self._ttl_ms = max(1, round(ttl.total_seconds() * 1000))
        self._project_bytes = project_bytes

    async def put(self, project_id: str, found: Sequence[FoundArtifact]) -> None:
        """See ``ArtifactStore.put``."""
        if not found:
            return
        index = self._index(project_id)
        for one in found:
            digest = one.artifact.sha256
            # The budget first: a worker that dies in between leaves an entry too many, never a file that nobody counts.
            entry = f"{time.time_ns() // 1_000_000}:{len(one.content)}:{digest}"
            await self._redis.execute_command("HSET", index, digest, entry)
            key = self._key(project_id, digest)
            await self._redis.execute_command("SET", key, base64.b64encode(one.content), "PX", self._ttl_ms)
        await self._redis.execute_command("PEXPIRE", index, self._ttl_ms)
        await self._trim(project_id)

    async def get(self, project_id: str, sha256: str) -> bytes | None:
        """See ``ArtifactStore.get``."""
        found = await self._redis.execute_command("GET", self._key(project_id, sha256))
        return None if found is None else base64.b64decode(found)

    async def _trim(self, project_id: str) -> None:
        """Forget what has expired, and the oldest of what is too much."""
        entries = [
            text(entry).split(":") for entry in await self._redis.execute_command("HVALS", self._index(project_id))
        ]
        left, expired = self._project_bytes, time.time_ns() // 1_000_000 - self._ttl_ms
        for stored, size, digest in sorted(entries, key=lambda entry: int(entry[0]), reverse=True):
            left -= int(size)
            if left < 0 or int(stored) < expired:
                await self._redis.execute_command("DEL", self._key(project_id, digest))
                await self._redis.execute_command("HDEL", self._index(project_id), digest)

    def _key(self, project_id: str, digest: str) -> str:
        return f"{self._prefix}:artifact:{project_id}:{digest}"

    def _index(self, project_id: str) -> str:
        return f"{self._prefix}:artifacts:{project_id}"


async def find_artifact(store: ArtifactStore, project_id: object, result: object, name: str) -> FoundArtifact:
    """Find an artifact of one job.

    Args:
        store: Where artifacts are kept.
        project_id: Of the job's payload.
        result: The job's result.
        name: The artifact's ``stored_as``.

    Raises:
        ArtifactNotFound: The job left no such file, or it is no longer kept.
    """
    named = _NAME.match(name)
    artifacts = result.artifacts if isinstance(result, TestReport) else ()
    artifact = next((one for one in artifacts if named and one.sha256 == named[1]), None)
    if artifact is None or not isinstance(project_id, str):
        raise ArtifactNotFound(f"expected the storedAs of one of the job's artifacts, got {name!r}")
    content = await store.get(project_id, artifact.sha256)
    if content is None:
        raise ArtifactNotFound(f"{artifact.path!r} is no longer kept")
    return FoundArtifact(artifact, content)
