"""Generated commits, kept in Redis as git bundles, so that any worker can go on from them.

A worker's mirror is a cache; a commit that no forge has yet would be lost with it. The bundle holds what the project's
repository doesn't have, so it stays small.

Wire:
    ``{prefix}:commit:{project}:{hash}``     STRING  base64 of a git bundle, with a time to live
    ``{prefix}:branch:{project}:{branch}``   STRING  hash of the branch's newest generated commit, with a time to live
"""

from __future__ import annotations

import base64
from datetime import timedelta

from corral.errors import Unrecoverable
from corral.wire.commands import RedisCommands, text

# KEYS the branch's newest commit, the commit; ARGV its hash, what the branch had before or "", its time to live in ms.
_WITHDRAW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
  redis.call('DEL', KEYS[2])
end
"""


class CommitStore:
    """Commits that only Corral has.

    Args:
        redis: A connected client.
        prefix: Start of the keys.
        ttl: How long a commit is kept after it was stored.
        max_bundle_bytes: Largest bundle that is taken.
    """

    def __init__(
        self,
        redis: RedisCommands,
        *,
        prefix: str = "corral",
        ttl: timedelta = timedelta(days=7),
        max_bundle_bytes: int = 20 * 1024 * 1024,
    ) -> None:
        self._redis = redis
        self._prefix = prefix
        self._ttl_ms = max(1, round(ttl.total_seconds() * 1000))
        self._max_bundle_bytes = max_bundle_bytes

    @property
    def max_bundle_bytes(self) -> int:
        """Largest bundle that is taken."""
        return self._max_bundle_bytes

    async def put(self, project_id: str, commit: str, bundle: bytes, *, branch: str) -> None:
        """Keep a commit, and make it the newest of its branch.

        Args:
            project_id: Whose commit it is.
            commit: Its full hash.
            bundle: A git bundle that holds it.
            branch: The branch that it was made for.

        Raises:
            Unrecoverable: ``commit_too_large``.
        """
        if len(bundle) > self._max_bundle_bytes:
            raise Unrecoverable(
                f"the commit is {len(bundle)} bytes as a git bundle and at most {self._max_bundle_bytes} are kept; "
                "make the change smaller",
                reason="commit_too_large",
            )
        encoded = base64.b64encode(bundle)
        await self._redis.execute_command("SET", self._commit_key(project_id, commit), encoded, "PX", self._ttl_ms)
        await self._redis.execute_command("SET", self._branch_key(project_id, branch), commit, "PX", self._ttl_ms)

    async def withdraw(self, project_id: str, commit: str, *, branch: str, before: str | None) -> None:
        """Forget a commit that is still the newest of its branch; one that has followed by now is left alone.

        Args:
            project_id: Whose commit it is.
            commit: Its full hash.
            branch: The branch that it was made for.
            before: What was the branch's newest before it.
        """
        keys = self._branch_key(project_id, branch), self._commit_key(project_id, commit)
        await self._redis.execute_command("EVAL", _WITHDRAW, 2, *keys, commit, before or "", self._ttl_ms)

    async def get(self, project_id: str, commit: str) -> bytes | None:
        """The bundle that holds a commit; None when it is not (or no longer) kept.

        Args:
            project_id: Whose commit it is.
            commit: Its full hash.
        """
        found = await self._redis.execute_command("GET", self._commit_key(project_id, commit))
        return None if found is None else base64.b64decode(found)

    async def tip(self, project_id: str, branch: str) -> str | None:
        """Full hash of the newest commit that was generated for a branch; None when there is none.

        Args:
            project_id: Whose branch it is.
            branch: Without ``refs/heads/``.
        """
        found = await self._redis.execute_command("GET", self._branch_key(project_id, branch))
        return None if found is None else text(found)

    def _commit_key(self, project_id: str, commit: str) -> str:
        return f"{self._prefix}:commit:{project_id}:{commit}"

    def _branch_key(self, project_id: str, branch: str) -> str:
        return f"{self._prefix}:branch:{project_id}:{branch}"
