"""The public keys (JWK sets) that the platform's tokens are checked with: from a file, or from the platform's server.

PyJWT brings a client of its own for this. It reads an answer of any size, asks again with every request while the
server is down, and then knows no keys at all once its copy is five minutes old; so the fetching is done here.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.error import URLError
from urllib.parse import urlsplit

from corral.errors import AdapterError, ConfigurationError
from corral.interfaces.identity import is_loopback

ASYMMETRIC: Final = ("RS256", "ES256", "EdDSA")
"""The algorithms that a key set's keys may be for."""
_MAX_BYTES: Final = 256 * 1024
_CHUNK_BYTES: Final = 16 * 1024


class KeySet(Protocol):
    """Public keys by their ids."""

    async def find(self, key_id: str | None) -> Any | None:
        """The key of that id, as PyJWT takes it; the only key there is when the token names none; None: unknown.

        Raises:
            AdapterError: The keys can't be fetched.
        """
        ...


class FileKeySet:
    """A file that is read once.

    Raises:
        ConfigurationError: It isn't a JWK set.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._keys = _parse(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"expected a JWK set in {path}: {error}") from None

    async def find(self, key_id: str | None) -> Any | None:
        """See `KeySet`."""
        return _pick(self._keys, key_id)


class RemoteKeySet:
    """A key set behind an address.

    It is fetched with the first token, again when the copy is older than ``lifespan``, and when a token names a key
    that isn't in it (the platform has rotated its keys), but never more often than once in ``pause``, however many
    tokens with invented ids come. While the server doesn't answer, the last copy holds for ``outlives``.

    Args:
        address: ``https://…``; ``http://`` only on this machine.
        lifespan: How long a copy is good without asking.
        pause: Shortest time between two fetches, failed ones too.
        outlives: How old a copy may become while no newer one can be had.
        patience: Longest time that one fetch takes.

    Raises:
        ConfigurationError: The address is neither.
    """

    def __init__(
        self,
        address: str,
        *,
        lifespan: timedelta = timedelta(minutes=5),
        pause: timedelta = timedelta(seconds=10),
        outlives: timedelta = timedelta(hours=1),
        patience: timedelta = timedelta(seconds=5),
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme.lower() != "https" and not is_loopback(parts.hostname or ""):
            raise ConfigurationError(
                f"jwt_jwks: expected https:// for a key set on another machine, as whoever sits between could give "
                f"keys of their own; got {parts.scheme}://{parts.hostname}"
            )
        self._address = address
        self._name = f"{parts.scheme}://{parts.hostname}"
        self._lifespan_s = lifespan.total_seconds()
        self._pause_s = pause.total_seconds()
        self._outlives_s = outlives.total_seconds()
        self._patience_s = patience.total_seconds()
        self._keys: Mapping[str | None, Any] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._trouble = ""
        self._lock = asyncio.Lock()

    async def find(self, key_id: str | None) -> Any | None:
        """See `KeySet`."""
        key = _pick(self._keys, key_id)
        if key is not None and self._age() < self._lifespan_s:
            return key
        if key is not None and self._age() < self._outlives_s and self._lock.locked():
            return key  # somebody fetches already; a slow server needn't hold up everybody
        async with self._lock:
            if self._tried_at is None or time.monotonic() - self._tried_at >= self._pause_s:
                await self._fetch()
        if self._age() > self._outlives_s:
            raise AdapterError(
                f"expected a JWK set from {self._name}; {self._trouble}. Mend: check jwt_jwks and that server",
                service="key set",
                operation="fetch",
                retryable=True,
                retry_after=timedelta(seconds=self._pause_s),
                reason="key_set_unreachable",
            )
        return _pick(self._keys, key_id)

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else time.monotonic() - self._fetched_at

    async def _fetch(self) -> None:
        try:
            self._keys = await asyncio.to_thread(_download, self._address, self._patience_s)
            self._fetched_at = time.monotonic()
        except (OSError, URLError, http.client.HTTPException, ValueError) as error:
            self._trouble = f"{type(error).__name__}: {error}"  # told once the copy we have is too old
        finally:
            self._tried_at = time.monotonic()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Keys come from the address that was configured, from nowhere else."""


def _download(address: str, patience_s: float) -> Mapping[str | None, Any]:
    """Fetch and read a key set.

    Raises:
        OSError: No answer, none in time, or not a success.
        HTTPException: Not HTTP.
        ValueError: Too large, or no JWK set.
    """
    until = time.monotonic() + patience_s
    opener = urllib.request.build_opener(_NoRedirects())
    request = urllib.request.Request(address, headers={"Accept": "application/json"})  # noqa: S310 - scheme was checked
    body = bytearray()
    with opener.open(request, timeout=patience_s) as answer:
        while chunk := answer.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > _MAX_BYTES:
                raise ValueError(f"expected at most {_MAX_BYTES} bytes")
            if time.monotonic() > until:
                raise TimeoutError(f"not all of it came within {patience_s:g} s")
    return _parse(bytes(body))


def _parse(text: bytes) -> Mapping[str | None, Any]:
    """The signing keys of a JWK set, by id.

    Raises:
        ValueError: Not a JWK set, or one without a key that can be used here.
    """
    import jwt  # noqa: PLC0415 - an extra, needed only here

    try:
        found = jwt.PyJWKSet.from_dict(json.loads(text))
    except (jwt.PyJWTError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"not a JWK set: {error}") from None
    keys = {
        key.key_id: key
        for key in found.keys
        if key.key_type != "oct" and key.algorithm_name in ASYMMETRIC and key.public_key_use in {"sig", None}
    }
    if not keys:
        raise ValueError(f"no signing key for {', '.join(ASYMMETRIC)} in the JWK set")
    return keys


def _pick(keys: Mapping[str | None, Any], key_id: str | None) -> Any | None:
    if key_id is None and len(keys) == 1:
        return next(iter(keys.values()))
    return keys.get(key_id)
