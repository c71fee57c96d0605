"""What the pull-request job must remember across crashes and workers.

Wire:
    ``{prefix}:pushed:{project}:{branch}``  SET     hashes that Corral pushed to the branch, or was about to; with a TTL
    ``{prefix}:pr:{key}``                   STRING  JSON of the job's result; with a TTL
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from corral.jobs.pr_creation.payload import PrResult
from corral.wire.commands import RedisCommands


def idempotency_key(project_id: str, source_branch: str, target_branch: str, commit: str) -> str:
    """Names one pull request, whoever asks for it and however often.

    Args:
        project_id: The project.
        source_branch: Where it comes from.
        target_branch: Where it goes.
        commit: Full hash that the job was given.

    Returns:
        32 hexadecimal digits.
    """
    parts = f"{project_id}\n{source_branch}\n{target_branch}\n{commit}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


class PullRequestRecords:
    """Remembers pushes and results.

    Args:
        redis: A connected client.
        prefix: Start of the keys.
        ttl: How long after the last push a branch may still be replaced.
    """

    def __init__(self, redis: RedisCommands, *, prefix: str = "corral", ttl: timedelta = timedelta(days=30)) -> None:
        self._redis = redis
        self._prefix = prefix
        self._ttl_ms = max(1, round(ttl.total_seconds() * 1000))

    async def will_push(self, project_id: str, branch: str, commit: str) -> None:
        """Remember, before a push, that this commit on this branch is ours."""
        key = f"{self._prefix}:pushed:{project_id}:{branch}"
        await self._redis.execute_command("SADD", key, commit)
        await self._redis.execute_command("PEXPIRE", key, self._ttl_ms)

    async def was_pushed(self, project_id: str, branch: str, commit: str) -> bool:
        """Whether this commit on this branch is ours, and may be replaced."""
        key = f"{self._prefix}:pushed:{project_id}:{branch}"
        return bool(await self._redis.execute_command("SISMEMBER", key, commit))

    async def remember(self, key: str, result: PrResult) -> None:
        """Keep a result, for the same job coming again after the pull request was merged."""
        await self._redis.execute_command(
            "SET", f"{self._prefix}:pr:{key}", result.model_dump_json(), "PX", self._ttl_ms
        )

    async def recall(self, key: str) -> PrResult | None:
        """The result kept under a key; None when there is none."""
        found = await self._redis.execute_command("GET", f"{self._prefix}:pr:{key}")
        return None if found is None else PrResult.model_validate_json(found)
