"""Who is asking, and what they may do: API tokens, the platform's own JWTs, and the rules of ownership.

The rules, in one place:

- ``submit`` adds jobs and stops, repeats or removes one's own; ``read`` sees one's own jobs and the queues' figures.
- ``manage`` reads everybody's jobs, acts on them, and runs the queues (pause, clean, schedules, projects).
- ``admin`` does all that, may add jobs for any user (a platform's server does), and makes and revokes tokens.
- A job belongs to the ``userId`` of its payload; a job type without that field gets its owner recorded beside it.
- Other people's jobs and projects look as if they did not exist.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

from corral.errors import ConfigurationError, NotAuthenticated, NotPermitted

_TOKEN: Final = re.compile(r"corral_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_CACHE_SECONDS: Final = 1.0
"""How long a checked token is taken as still valid; a revoked one stops working everywhere within this time."""
_CACHE_SIZE: Final = 4096
USER_ID: Final = re.compile(r"[^\x00-\x20\x7f]{1,128}")


class Scope(StrEnum):
    """What a token allows."""

    SUBMIT = "submit"
    """Add jobs; cancel, retry, promote and remove one's own."""
    READ = "read"
    """See one's own jobs and the queues' figures."""
    MANAGE = "manage"
    """See and act on everybody's jobs; pause, resume, clean; schedules and projects."""
    ADMIN = "admin"
    """Everything, for any user; tokens too."""


_IMPLIED: Final[Mapping[Scope, frozenset[Scope]]] = {
    Scope.SUBMIT: frozenset({Scope.SUBMIT}),
    Scope.READ: frozenset({Scope.READ}),
    Scope.MANAGE: frozenset({Scope.MANAGE, Scope.READ}),
    Scope.ADMIN: frozenset(Scope),
}


class CredentialKind(StrEnum):
    """How the caller proved who they are."""

    TOKEN = "token"  # noqa: S105 - a kind of credential, not one
    JWT = "jwt"
    LOCAL = "local"
    """Nobody had to: no token is configured and the caller is on this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """The caller."""

    user_id: str
    scopes: frozenset[Scope]
    kind: CredentialKind
    #: Projects that the caller may use; None: all.
    projects: frozenset[str] | None = None
    #: Requests a minute and endpoint; None: the server's default; 0: no limit.
    request_limit: int | None = None
    #: Id of the API token, when that is how they came.
    token_id: str | None = None
    #: When the credential ends by itself.
    expires_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether one of the caller's scopes is ``scope`` or implies it."""
        return any(scope in _IMPLIED[held] for held in self.scopes)

    def require(self, scope: Scope) -> None:
        """Raise unless the caller has ``scope``.

        Raises:
            NotPermitted: They don't.
        """
        if not self.allows(scope):
            held = ", ".join(sorted(self.scopes)) or "none"
            raise NotPermitted(f"expected a token with the scope {scope.value!r}; this one has: {held}", scope=scope)

    @property
    def sees_everyone(self) -> bool:
        """Whether other users' jobs are visible."""
        return self.allows(Scope.MANAGE)

    def owns(self, user_id: str | None) -> bool:
        """Whether a job of ``user_id`` is visible to the caller."""
        return self.sees_everyone or (user_id is not None and user_id == self.user_id)

    def may_use_project(self, project_id: str) -> bool:
        """Whether the caller may use the project."""
        return self.projects is None or project_id in self.projects

    def claim(self, data: Mapping[str, Any]) -> str:
        """Decide whose job this payload makes.

        Args:
            data: The payload as it came, camelCase or snake_case.

        Returns:
            The user's id: the payload's, or the caller's own when it names none.

        Raises:
            NotPermitted: The payload claims another user, or a project that the caller may not use.
        """
        for name in ("projectId", "project_id"):
            project = data.get(name)
            if isinstance(project, str) and not self.may_use_project(project):
                raise NotPermitted(f"expected a project that this token may use, got {project!r}")
        claimed = [data[name] for name in ("userId", "user_id") if name in data]
        for user in claimed:
            if user != self.user_id and not self.allows(Scope.ADMIN):
                raise NotPermitted(
                    f"expected the token's own user {self.user_id!r} as userId, got {user!r}", scope=Scope.ADMIN
                )
        return claimed[0] if claimed and isinstance(claimed[0], str) else self.user_id


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenInfo:
    """An API token, without its secret."""

    id: str
    user_id: str
    scopes: frozenset[Scope]
    name: str
    created_at: datetime
    expires_at: datetime | None
    projects: frozenset[str] | None
    request_limit: int | None


def _iso(moment: datetime | None) -> str:
    return moment.isoformat() if moment else ""


def _digest(secret: str) -> str:
    # The secret is 256 random bits: there is nothing to guess, so a slow password hash would only cost time.
    return hashlib.sha256(secret.encode()).hexdigest()


class TokenStore:
    """API tokens, kept in Redis as hashes of their secrets.

    Keys: ``<prefix>:token:<id>`` (hash), ``<prefix>:tokens`` (set of ids), ``<prefix>:tokens:required`` (string;
    present once a token was ever made, so that a server doesn't fall open when its last token ends).

    Args:
        redis: A ready async client that decodes answers.
        prefix: Of the keys.
    """

    def __init__(self, redis: Any, *, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._checked: dict[str, tuple[float, Principal]] = {}
        self._required: tuple[float, bool] = (0.0, False)

    async def create(
        self,
        user_id: str,
        scopes: Iterable[Scope | str],
        *,
        name: str = "",
        lifetime: timedelta | None = None,
        projects: Iterable[str] | None = None,
        request_limit: int | None = None,
    ) -> tuple[str, TokenInfo]:
        """Make a token.

        Args:
            user_id: Whose token it is.
            scopes: At least one.
            name: For people: where it is used.
            lifetime: None: until revoked.
            projects: Ids of the only projects that it may use; None: all.
            request_limit: Requests a minute and endpoint; None: the server's default; 0: no limit.

        Returns:
            The token, which is shown this once and stored nowhere, and what is kept of it.

        Raises:
            ConfigurationError: An unknown or missing scope, or an impossible user id.
        """
        try:
            wanted = frozenset(Scope(scope) for scope in scopes)
        except ValueError as error:
            raise ConfigurationError(f"expected scopes out of {', '.join(Scope)}; {error}") from None
        if not wanted:
            raise ConfigurationError(f"expected at least one scope out of {', '.join(Scope)}, got none")
        if not USER_ID.fullmatch(user_id):
            raise ConfigurationError(f"expected a user id of 1 to 128 visible characters, got {user_id!r}")
        token_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        now = datetime.now(UTC)
        info = TokenInfo(
            id=token_id,
            user_id=user_id,
            scopes=wanted,
            name=name[:200],
            created_at=now,
            expires_at=now + lifetime if lifetime else None,
            projects=frozenset(projects) if projects is not None else None,
            request_limit=request_limit,
        )
        record = {
            "hash": _digest(secret),
            "user": info.user_id,
            "scopes": " ".join(sorted(wanted)),
            "name": info.name,
            "created": _iso(info.created_at),
            "expires": _iso(info.expires_at),
            "projects": json.dumps(sorted(info.projects)) if info.projects is not None else "",
            "limit": "" if request_limit is None else str(request_limit),
        }
        async with self._redis.pipeline(transaction=False) as pipe:
            # The marker first: from the moment that a token exists, one is required.
            pipe.set(f"{self._prefix}:tokens:required", "1")
            pipe.hset(self._key(token_id), mapping=record)
            if info.expires_at:
                pipe.expireat(self._key(token_id), info.expires_at)
            pipe.sadd(f"{self._prefix}:tokens", token_id)
            await pipe.execute()
        self._required = (0.0, False)
        return f"corral_{token_id}_{secret}", info

    async def list(self) -> list[TokenInfo]:
        """All tokens that still work, oldest first."""
        found: list[TokenInfo] = []
        for token_id in await self._redis.smembers(f"{self._prefix}:tokens"):
            record = await self._redis.hgetall(self._key(token_id))
            if record:
                found.append(_token_info(token_id, record))
            else:  # it ended by itself
                await self._redis.srem(f"{self._prefix}:tokens", token_id)
        return sorted(found, key=lambda token: token.created_at)

    async def revoke(self, token_id: str) -> bool:
        """End a token.

        Returns:
            Whether there was such a token. It stops working here at once, in other processes within a second.
        """
        self._checked.clear()
        removed = await self._redis.delete(self._key(token_id))
        await self._redis.srem(f"{self._prefix}:tokens", token_id)
        return bool(removed)

    async def required(self) -> bool:
        """Whether a token was ever made, so that callers need one."""
        until, known = self._required
        if time.monotonic() < until:
            return known
        required = bool(await self._redis.exists(f"{self._prefix}:tokens:required"))
        self._required = (time.monotonic() + _CACHE_SECONDS, required)
        return required

    async def reset(self) -> None:
        """Revoke every token and require none any more; the server serves loopback only again."""
        for token in await self.list():
            await self.revoke(token.id)
        await self._redis.delete(f"{self._prefix}:tokens:required")
        self._required = (0.0, False)

    async def check(self, token: str) -> Principal:
        """Say whose token this is.

        Raises:
            NotAuthenticated: Not a token, or one that is unknown, expired or revoked.
        """
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise NotAuthenticated("expected an API token of the form corral_<id>_<secret>")
        digest = _digest(match[2])
        cached = self._checked.get(match[1] + digest)
        if cached and time.monotonic() < cached[0]:
            return cached[1]
        principal = await self.by_id(match[1], digest=digest)
        if len(self._checked) >= _CACHE_SIZE:
            self._checked.clear()
        self._checked[match[1] + digest] = (time.monotonic() + _CACHE_SECONDS, principal)
        return principal

    async def by_id(self, token_id: str, *, digest: str | None = None) -> Principal:
        """The principal of a token that was checked before (a session's), or whose secret's digest is given.

        Raises:
            NotAuthenticated: There is no such token any more, or the digest differs.
        """
        record = await self._redis.hgetall(self._key(token_id))
        if not record or (digest is not None and not hmac.compare_digest(record["hash"], digest)):
            raise NotAuthenticated("this API token is unknown, expired or revoked; make one with `corral token create`")
        info = _token_info(token_id, record)
        if info.expires_at and info.expires_at <= datetime.now(UTC):
            raise NotAuthenticated("this API token has expired; make one with `corral token create`")
        return Principal(
            user_id=info.user_id,
            scopes=info.scopes,
            kind=CredentialKind.TOKEN,
            projects=info.projects,
            request_limit=info.request_limit,
            token_id=token_id,
            expires_at=info.expires_at,
        )

    def _key(self, token_id: str) -> str:
        return f"{self._prefix}:token:{token_id}"


def _token_info(token_id: str, record: Mapping[str, str]) -> TokenInfo:
    known = set(Scope)
    return TokenInfo(
        id=token_id,
        user_id=record["user"],
        scopes=frozenset(Scope(name) for name in record["scopes"].split() if name in known),
        name=record.get("name", ""),
        created_at=datetime.fromisoformat(record["created"]),
        expires_at=datetime.fromisoformat(record["expires"]) if record.get("expires") else None,
        projects=frozenset(json.loads(record["projects"])) if record.get("projects") else None,
        request_limit=int(record["limit"]) if record.get("limit") else None,
    )


class Verifier(Protocol):
    """Checks credentials of one kind."""

    async def check(self, token: str) -> Principal:
        """Say whose token this is.

        Raises:
            NotAuthenticated: It is not accepted.
        """
        ...


class Authenticator:
    """Turns a credential into a principal: an API token, a JWT, or nothing at all on a machine without tokens."""

    def __init__(self, tokens: TokenStore, jwt: Verifier | None = None) -> None:
        self.tokens = tokens
        self._jwt = jwt

    async def check(self, credential: str) -> Principal:
        """Say whose credential this is.

        Raises:
            NotAuthenticated: It is not accepted.
        """
        if self._jwt is not None and credential.count(".") == 2:
            return await self._jwt.check(credential)
        return await self.tokens.check(credential)

    async def is_open(self) -> bool:
        """Whether nothing is configured, so that callers on this machine need no credential."""
        return self._jwt is None and not await self.tokens.required()

    async def refuse_public_bind(self, host: str) -> None:
        """Stop a server from being reachable by others while anyone may do anything.

        Raises:
            ConfigurationError: ``host`` isn't loopback and no token is configured.
        """
        if not is_loopback(host) and await self.is_open():
            raise ConfigurationError(
                f"expected a loopback address to bind to while no token is configured, got {host!r}; "
                "make a token first: corral token create NAME --scope admin"
            )


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address, as given to bind or as seen from a peer) is this machine only."""
    import ipaddress  # noqa: PLC0415 - 10 ms that most starts don't need

    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def local_principal() -> Principal:
    """The caller on this machine, while no token is configured: may do everything."""
    return Principal(user_id="local", scopes=frozenset(Scope), kind=CredentialKind.LOCAL)
