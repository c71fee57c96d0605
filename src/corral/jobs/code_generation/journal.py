"""Finished steps of a job, in Redis, so that the next attempt goes on from them instead of paying again.

Code generation is a function of its payload, its base commit, and what the outside said: the model's answers, the test
reports, the index's hits. The journal keeps exactly these, in order. A new attempt runs the same code from the start
and gets each recorded answer for the question that it belongs to, until the journal ends; from there on it asks for
itself. When a question differs from the recorded one (the index was rebuilt, say), the rest of the journal is dropped.

Key:
    {prefix}:journal:{project}:{task}:{hash}   list of JSON objects: kind, question's hash, answer; a long one is ``z``
                                             and base85 of its zlib
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from corral.adapters.llm.redis_client import RedisClient, as_text

_COMPRESS_OVER = 32 << 10
_MOST_CHARACTERS = 16 << 20
"""Of one job's steps together, as they are kept: what a job may take of everybody's Redis."""
_COMPRESSED = "z"


class Journal:
    """One job's finished steps."""

    def __init__(
        self,
        redis: RedisClient | None,
        *,
        key: str,
        ttl: timedelta = timedelta(hours=24),
        tell: Callable[[str], Awaitable[None]] | None = None,
        most_characters: int = _MOST_CHARACTERS,
    ) -> None:
        """Keep the steps under ``key``; without Redis, nothing outlives the attempt.

        Args:
            redis: A ready client, whether or not it decodes.
            key: See ``key_for``.
            ttl: How long the steps of an attempt that died are kept.
            tell: Gets a line for the job's log when the steps no longer fit.
            most_characters: Bound on all steps together, packed.
        """
        self._store = redis
        self._redis = redis
        """None once a step could not be kept."""
        self._key = key
        self._tell = tell
        self._most_characters = most_characters
        self._kept = 0
        self._ttl_s = int(ttl.total_seconds())
        self._recorded: list[dict[str, Any]] = []
        self._next = 0
        #: Steps that were taken from an earlier attempt.
        self.resumed = 0

    @staticmethod
    def key_for(*, prefix: str, project_id: str, task_id: str, payload: str, base: str) -> str:
        """The key of one task's work on one base: another prompt, model or base starts anew."""
        digest = hashlib.sha256(f"{payload}\n{base}".encode()).hexdigest()[:16]
        return f"{prefix}:journal:{project_id}:{task_id}:{digest}"

    async def open(self) -> None:
        """Read what earlier attempts left."""
        if self._redis is not None:
            lines = await self._redis.execute_command("LRANGE", self._key, 0, -1)
            told = [as_text(line) for line in lines]
            self._kept = sum(map(len, told))
            self._recorded = [json.loads(_unpacked(line)) for line in told]

    async def step(self, kind: str, question: str, ask: Callable[[], Awaitable[str]]) -> tuple[str, bool]:
        """The recorded answer to this question, or a new one that is recorded before it is used.

        Args:
            kind: What sort of step it is.
            question: All that decides the answer.
            ask: Gets the answer from outside.

        Returns:
            The answer, and whether an earlier attempt had it.
        """
        asked = hashlib.sha256(question.encode()).hexdigest()[:24]
        if self._next < len(self._recorded):
            entry = self._recorded[self._next]
            if entry["kind"] == kind and entry["asked"] == asked:
                self._next += 1
                self.resumed += 1
                return str(entry["answer"]), True
            await self._cut()
        answer = await ask()
        await self._append({"kind": kind, "asked": asked, "answer": answer})
        return answer, False

    async def discard(self) -> None:
        """The job is done: nobody needs its steps any more."""
        if self._store is not None:
            await self._store.execute_command("DEL", self._key)

    async def _cut(self) -> None:
        self._recorded = self._recorded[: self._next]
        if self._redis is None:
            return
        if self._next:
            await self._redis.execute_command("LTRIM", self._key, 0, self._next - 1)
        else:
            await self._redis.execute_command("DEL", self._key)
        self._kept = sum(len(_packed(entry)) for entry in self._recorded)

    async def _append(self, entry: dict[str, Any]) -> None:
        self._recorded.append(entry)
        self._next += 1
        if self._redis is None:
            return
        line = _packed(entry)
        if self._kept + len(line) > self._most_characters:
            # A step that is not kept ends what can be resumed; later ones would not fit to it.
            self._redis = None
            if self._tell is not None:
                await self._tell(
                    f"this job's steps are too large to keep ({self._kept + len(line)} characters, at most "
                    f"{self._most_characters}): if the worker dies, it goes on from step {self._next - 1}"
                )
            return
        self._kept += len(line)
        await self._redis.execute_command("RPUSH", self._key, line)
        await self._redis.execute_command("EXPIRE", self._key, self._ttl_s)


def _packed(entry: dict[str, Any]) -> str:
    line = json.dumps(entry)
    if len(line) <= _COMPRESS_OVER:
        return line
    # As text, because the client may decode what it reads.
    return _COMPRESSED + base64.b85encode(zlib.compress(line.encode(), 6)).decode()


def _unpacked(line: str) -> str:
    return zlib.decompress(base64.b85decode(line[1:])).decode() if line.startswith(_COMPRESSED) else line
