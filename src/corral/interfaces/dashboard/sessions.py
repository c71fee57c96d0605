"""Logins to the dashboard: a random cookie on one side, a record with a time to live in Redis on the other."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from corral.errors import NotAuthenticated
from corral.interfaces.identity import CredentialKind, Principal, Scope

if TYPE_CHECKING:
    from corral.interfaces.identity import Authenticator
    from corral.wire.connection import RedisClient

COOKIE: Final = "corral_session"


@dataclass(frozen=True, slots=True)
class Session:
    """One login."""

    principal: Principal
    #: What every form of the pages carries, so that a page of another site can't send it.
    csrf: str


class Sessions:
    """Begins, finds and ends logins.

    Keys: ``<prefix>:session:<SHA-256 of the cookie>`` (string, JSON, with a time to live).
    """

    def __init__(self, redis: RedisClient, authenticator: Authenticator, lifetime: timedelta, *, prefix: str) -> None:
        self._redis = redis
        self._authenticator = authenticator
        self._lifetime = lifetime
        self._prefix = prefix

    async def begin(self, credential: str) -> tuple[str, timedelta]:
        """Log in with an API token or a JWT.

        Returns:
            The cookie's value, and how long it is good; never longer than the credential.

        Raises:
            NotAuthenticated: The credential is not accepted.
            NotPermitted: It may not read.
        """
        principal = await self._authenticator.check(credential)
        principal.require(Scope.READ)
        lifetime = self._lifetime
        if principal.expires_at is not None:
            lifetime = min(lifetime, principal.expires_at - datetime.now(UTC))
        record = {
            "user": principal.user_id,
            "scopes": sorted(principal.scopes),
            "kind": principal.kind,
            "projects": sorted(principal.projects) if principal.projects is not None else None,
            "limit": principal.request_limit,
            "token": principal.token_id,
            "csrf": secrets.token_urlsafe(24),
        }
        cookie = secrets.token_urlsafe(32)
        await self._redis.set(self._key(cookie), json.dumps(record), px=max(1, lifetime // timedelta(milliseconds=1)))
        return cookie, lifetime

    async def find(self, cookie: str) -> Session | None:
        """The login behind a cookie; None when it has ended, or its API token has been revoked."""
        stored = await self._redis.get(self._key(cookie))
        if stored is None:
            return None
        record = json.loads(stored)
        if record["token"] is not None:
            try:
                return Session(await self._authenticator.tokens.by_id(record["token"]), record["csrf"])
            except NotAuthenticated:
                await self.end(cookie)
                return None
        principal = Principal(
            user_id=record["user"],
            scopes=frozenset(Scope(name) for name in record["scopes"]),
            kind=CredentialKind(record["kind"]),
            projects=frozenset(record["projects"]) if record["projects"] is not None else None,
            request_limit=record["limit"],
        )
        return Session(principal, record["csrf"])

    async def end(self, cookie: str) -> None:
        """Log out."""
        await self._redis.delete(self._key(cookie))

    def _key(self, cookie: str) -> str:
        # What lies in Redis is of no use as a cookie.
        return f"{self._prefix}:session:{hashlib.sha256(cookie.encode()).hexdigest()}"
