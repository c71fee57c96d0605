"""What the cache, the budgets and the checkpoints need of a Redis client: any asyncio redis-py client has it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol


class RedisClient(Protocol):
    """A ready asyncio client, whether or not it decodes replies."""

    def execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:
        """Send one command."""
        ...

    def pipeline(self, transaction: bool = ...) -> Any:  # noqa: FBT001 - redis-py's own signature
        """Collect commands and send them in one write."""
        ...


def as_text(reply: Any) -> str:
    """A reply as text, whether or not the client decodes."""
    return reply.decode() if isinstance(reply, bytes) else str(reply)
