"""One hash over all that decides an answer, cheap enough for each step of a long conversation.

Messages and tools can't change once they are made, so each is hashed once, however many requests it is part of: what a
step of an agent loop costs is its new messages, not the conversation so far. The last message is nearly always new, so
it goes in as it is.

This is most of what a hit of the response cache costs beside the ``GET``, hence one string for all that is short, and
no serialiser. A test changes every field of every part and asks for another hash.
"""

from __future__ import annotations

import weakref
from hashlib import sha256 as _sha256

from corral.adapters.llm.port import Message, ModelRequest, Tool

VERSION = "3"
"""Part of every hash: raise it when the meaning of a stored answer changes."""
_DIGEST_BYTES = 32
_NO_NATIVE = bytes(_DIGEST_BYTES)
"""As long as a digest, so that no part's digests can be taken for its neighbour's."""

_seen: dict[int, tuple[weakref.ref[Message | Tool], bytes]] = {}
"""By identity, as comparing two messages would cost as much as hashing them; forgotten together with the message."""


def request_hash(model: str, request: ModelRequest, *, with_native: bool = True) -> str:
    """Hex digest (SHA-256) over the model's name and every field of the request.

    Args:
        model: The model's name.
        request: The question.
        with_native: Whether the provider's own form of earlier turns counts; without it, two requests that read the
            same have the same hash.
    """
    system, tools, messages = request.system, request.tools, request.messages
    parts: tuple[Message | Tool, ...] = (*tools, *messages[:-1])
    last = messages[-1] if messages else None
    digest = _sha256(
        _encoded(
            f"{VERSION} {model!r} {len(tools)} {len(messages)} {len(system)} {request.max_tokens} "
            f"{request.temperature!r} {request.seed!r} {request.stop!r} {request.output_schema!r} "
            f"{_shape(last) if last is not None else None}\n{system}"
        )
    )
    if parts:
        known = [
            held[1] if (held := _seen.get(id(part))) is not None and held[0]() is part else _hash_once(part)
            for part in parts
        ]
        digest.update(b"".join(known if with_native else [both[:_DIGEST_BYTES] for both in known]))
    if last is not None:
        if with_native and last.native is not None:
            digest.update(_sha256(_encoded(last.native)).digest())
        digest.update(_encoded(last.text))  # as it is: a long one is not copied into a longer string first
    return digest.hexdigest()


def _shape(message: Message) -> str:
    """All of a message but its texts, whose lengths it has, so that no two different ones read the same."""
    calls = [(call.id, call.name, call.arguments) for call in message.tool_calls] if message.tool_calls else ()
    return (
        f"{message.role} {message.tool_call_id!r} {message.tool_name!r} {calls!r} {message.native is None} "
        f"{len(message.text)}"
    )


def _hash_once(part: Message | Tool) -> bytes:
    """Two digests in a row: of the part as it reads, and of the provider's own form of it."""
    key = id(part)
    if isinstance(part, Message):
        told, native = f"{_shape(part)}\n{part.text}", part.native
    else:
        told, native = repr((part.name, part.description, part.parameters)), None
    digests = _sha256(_encoded(told)).digest()
    digests += _sha256(_encoded(native)).digest() if native is not None else _NO_NATIVE

    def forget(gone: weakref.ref[Message | Tool]) -> None:
        # The number may be another one's by now: only what was written down for the one that is gone goes with it.
        held = _seen.get(key)
        if held is not None and held[0] is gone:
            del _seen[key]

    _seen[key] = (weakref.ref(part, forget), digests)
    return digests


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
