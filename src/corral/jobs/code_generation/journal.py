"""Finished steps of a job, in Redis, so that the next attempt goes on from them instead of paying again.

Code generation is a function of its payload, its base commit, and what the outside said: the model's answers, the test
reports, the index's hits. The journal keeps the commit and exactly these, in order. A new attempt runs the same code
from the start and gets each recorded answer for the question that it belongs to, until the journal ends; from there on
it asks for itself. When a question differs from the recorded one (the index was rebuilt, say), the rest of the journal
is dropped.

A job that has done its work marks the journal instead of deleting it: a worker may be killed before it has recorded
the result, and the next one must not pay for all of it again. A job that had ended and is run again starts anew.

Key:
    {prefix}:journal:{project}:{task}:{hash}   list of JSON objects: kind, question's hash, answer; a long one is ``z``
                                             and base85 of its zlib. The first is of the kind ``base``; the last of the
                                             kind ``done`` when the work is done
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import zlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from corral.adapters.cleanup import heed_cancellation
from corral.adapters.llm.redis_client import RedisClient, as_text, insist
from corral.errors import StoreUnavailable

_COMPRESS_OVER = 32 << 10
_MOST_CHARACTERS = 16 << 20
"""Of one job's steps together, as they are kept: what a job may take of everybody's Redis."""
_COMPRESSED = "z"
FAILED = '{"failed":'
"""How an answer begins that is a failure."""
_BASE = "base"
_DONE = "done"
_DONE_S = 120
"""How long the steps of a job that has done its work are kept."""
# KEYS the journal; ARGV how many steps it has, the new one, its life in s; replies 1 appended (perhaps when it was sent
# before), 0 it has others by now: another attempt's.
_APPEND = """
local steps = redis.call('LLEN', KEYS[1])
if steps == tonumber(ARGV[1]) then
  redis.call('RPUSH', KEYS[1], ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  return 1
end
return steps == ARGV[1] + 1 and redis.call('LINDEX', KEYS[1], -1) == ARGV[2] and 1 or 0
"""


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
        self._redis = redis
        self._keeps = redis is not None
        """False once a step could not be kept."""
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
    def key_for(*, prefix: str, project_id: str, task_id: str, payload: str) -> str:
        """The key of one task's work: another prompt or model starts anew."""
        digest = hashlib.sha256(payload.encode()).hexdigest()[:16]
        return f"{prefix}:journal:{project_id}:{task_id}:{digest}"

    async def open(self, *, again: bool = True) -> None:
        """Read what earlier attempts left; waits for a Redis that is away, as all here do.

        Args:
            again: Whether the job was started before. Otherwise somebody has it run again: anew where it had been done,
                and from its first failure where it had not.
        """
        told = [as_text(line) for line in await self._send("LRANGE", self._key, 0, -1) or []]
        steps = [json.loads(_unpacked(line)) for line in told]
        while steps and steps[-1]["kind"] == _DONE:
            steps.pop()
        if not again:
            if len(steps) < len(told):
                steps = []
            # What failed may work by now: somebody may have seen to it before they had the job run again.
            failed = (place for place, step in enumerate(steps) if str(step["answer"]).startswith(FAILED))
            steps = steps[: next(failed, len(steps))]
        if len(steps) < len(told):
            await self._cut_after(len(steps))
        self._recorded = steps
        self._kept = sum(map(len, told[: len(self._recorded)]))

    @property
    def base(self) -> str | None:
        """The commit that the steps belong to, if an earlier attempt got so far."""
        first = self._recorded[0] if self._recorded else {}
        return str(first["answer"]) if first.get("kind") == _BASE else None

    async def begin(self, commit: str) -> None:
        """Go on from what is recorded for this commit; steps on another one are dropped."""

        async def answer() -> str:
            return commit

        await self.step(_BASE, commit, answer)

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
                self.resumed += kind != _BASE
                return str(entry["answer"]), True
            await self._cut()
        heed_cancellation()
        answer = await ask()
        await self._append({"kind": kind, "asked": asked, "answer": answer})
        return answer, False

    async def finish(self) -> None:
        """The job has done its work: only a worker that takes the place of a killed one needs its steps."""
        with contextlib.suppress(StoreUnavailable):  # they expire by themselves
            await self._send("RPUSH", self._key, json.dumps({"kind": _DONE}))
            await self._send("EXPIRE", self._key, _DONE_S)

    async def _cut(self) -> None:
        self._recorded = self._recorded[: self._next]
        if self._keeps:
            await self._cut_after(self._next)
            self._kept = sum(len(_packed(entry)) for entry in self._recorded)

    async def _cut_after(self, steps: int) -> None:
        if steps:
            await self._send("LTRIM", self._key, 0, steps - 1)
        else:
            await self._send("DEL", self._key)

    async def _append(self, entry: dict[str, Any]) -> None:
        self._recorded.append(entry)
        self._next += 1
        if not self._keeps:
            return
        line = _packed(entry)
        if self._kept + len(line) > self._most_characters:
            # A step that is not kept ends what can be resumed; later ones would not fit to it.
            self._keeps = False
            steps = self._next - 1 - (self.base is not None)
            if self._tell is not None:
                await self._tell(
                    f"this job's steps are too large to keep ({self._kept + len(line)} characters, at most "
                    f"{self._most_characters}): if the worker dies, it goes on from step {steps}"
                )
            return
        self._kept += len(line)
        self._keeps = bool(await self._send("EVAL", _APPEND, 1, self._key, self._next - 1, line, self._ttl_s))

    async def _send(self, *command: str | int) -> Any:
        """Send a command, which may be carried out twice; None without Redis."""
        store = self._redis
        return None if store is None else await insist(lambda: store.execute_command(*command))


def _packed(entry: dict[str, Any]) -> str:
    line = json.dumps(entry)
    if len(line) <= _COMPRESS_OVER:
        return line
    # As text, because the client may decode what it reads.
    return _COMPRESSED + base64.b85encode(zlib.compress(line.encode(), 6)).decode()


def _unpacked(line: str) -> str:
    return zlib.decompress(base64.b85decode(line[1:])).decode() if line.startswith(_COMPRESSED) else line
