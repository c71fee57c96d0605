"""One request, one effect, however often it is sent: the ``Idempotency-Key`` header.

Two things make it hold through crashes. The jobs of a keyed request get ids that follow from user, endpoint and key,
and a queue never adds an id twice; so to repeat a request that died half-way is safe. And a record in Redis keeps a
fingerprint of the request and, once it has succeeded, its answer; so a key can't be used for another request, and a
repetition is answered even when the job is gone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import Header
from starlette.responses import Response

from corral.interfaces.http.problems import HttpProblem
from corral.interfaces.http.routes import Json

_KEPT: Final = timedelta(hours=24)

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Makes repeating the request harmless for 24 hours: the first one's answer comes again.",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]


class KeyedRequest:
    """One request that carried a key."""

    def __init__(self, redis: Any, *, prefix: str, user_id: str, endpoint: str, key: str, body: bytes) -> None:
        self._redis = redis
        digest = hashlib.sha256(json.dumps([user_id, endpoint, key]).encode()).hexdigest()
        self._key = f"{prefix}:idempotency:{digest}"
        self._fingerprint = hashlib.sha256(body).hexdigest()
        self._stem = f"key-{digest[:32]}"

    def job_id(self, number: int = 0) -> str:
        """The id of the request's ``number``-th job."""
        return f"{self._stem}-{number}"

    async def earlier_answer(self) -> dict[str, Any] | None:
        """The answer to an earlier request with this key, if it succeeded; reserves the key otherwise.

        Raises:
            HttpProblem: 422, the key was used for a different request.
        """
        record = await self._redis.set(
            self._key, json.dumps({"fingerprint": self._fingerprint}), nx=True, get=True, ex=_KEPT
        )
        if record is None:
            return None
        stored: dict[str, Any] = json.loads(record)
        if stored["fingerprint"] != self._fingerprint:
            raise HttpProblem(
                422,
                "idempotency-key-reused",
                "The Idempotency-Key was used for another request",
                "expected a new Idempotency-Key for a request whose body differs",
            )
        return stored.get("answer")

    async def keep(self, answer: dict[str, Any]) -> None:
        """Store the answer for repetitions."""
        record = json.dumps({"fingerprint": self._fingerprint, "answer": answer})
        await self._redis.set(self._key, record, ex=_KEPT)


async def once(
    keyed: KeyedRequest | None,
    run: Callable[[Callable[[int], str | None]], Awaitable[dict[str, Any]]],
    *,
    location: Callable[[dict[str, Any]], str] | None = None,
) -> Response:
    """Run what adds jobs, or repeat its earlier answer.

    Args:
        keyed: None: the request had no key.
        run: Gets a function that gives the n-th job's id (None without a key), and returns the answer's JSON.
        location: Where the thing that the answer names can be read.
    """
    headers = {}
    answer = await keyed.earlier_answer() if keyed else None
    if answer is not None:
        headers["Idempotency-Replayed"] = "true"
    else:
        answer = await run(keyed.job_id if keyed else lambda _: None)
        if keyed:
            await keyed.keep(answer)
    if location is not None:
        headers["Location"] = location(answer)
    return Json(answer, status_code=201, headers=headers)
