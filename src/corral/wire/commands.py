"""The least that the other rooms need of a Redis client."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol


class RedisCommands(Protocol):
    """Sends one command and gives its reply: redis-py's asyncio client, or anything that speaks like it."""

    def execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:
        """Send one command.

        Args:
            args: The command's name and its arguments.
            options: The client's own.
        """
        ...


def text(reply: bytes | str) -> str:
    """A reply as text, whether or not the client decodes its replies."""
    return reply.decode() if isinstance(reply, bytes) else reply
