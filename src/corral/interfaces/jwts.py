"""The platform's own signed tokens (JWT): what they must hold, and what Corral reads from them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from corral.errors import ConfigurationError, ExtraMissing, NotAuthenticated
from corral.interfaces.identity import USER_ID, CredentialKind, Principal, Scope
from corral.interfaces.key_sets import ASYMMETRIC, FileKeySet, KeySet, RemoteKeySet
from corral.settings import Settings

_MIN_SECRET_BYTES: Final = 32


class JwtVerifier:
    """Checks the platform's own signed tokens (PyJWT).

    Claims: ``sub`` is the user, ``exp`` is required, ``scope`` (space-separated) or ``scopes`` (list) are Corral's
    scopes, ``submit read`` when absent; ``projects`` (list) limits projects; ``iss`` and ``aud`` as configured.
    The algorithm is decided by the key that is configured, never by the token: a public key is no HMAC secret.

    Raises:
        ConfigurationError: A short secret or an unreadable key set.
        ExtraMissing: PyJWT is not installed.
    """

    def __init__(
        self,
        *,
        secret: str | None = None,
        jwks: str | None = None,
        issuer: str | None = None,
        audience: str | None = None,
    ) -> None:
        try:
            import jwt  # noqa: PLC0415 - an extra, needed only here
        except ModuleNotFoundError:
            raise ExtraMissing("JWT identity needs PyJWT: pip install 'corral[http]'") from None
        if (secret is None) == (jwks is None):
            raise ConfigurationError("expected exactly one of jwt_secret and jwt_jwks")
        if secret is not None and len(secret.encode()) < _MIN_SECRET_BYTES:
            raise ConfigurationError(f"expected a jwt_secret of at least {_MIN_SECRET_BYTES} bytes")
        self._jwt = jwt
        self._secret = secret
        self._issuer = issuer
        self._audience = audience
        self._keys: KeySet | None = None
        if jwks is not None:
            remote = jwks.lower().startswith(("http://", "https://"))
            self._keys = RemoteKeySet(jwks) if remote else FileKeySet(Path(jwks))

    @classmethod
    def from_settings(cls, settings: Settings) -> JwtVerifier | None:
        """The verifier that the settings ask for, if any."""
        if settings.jwt_secret is None and settings.jwt_jwks is None:
            return None
        return cls(
            secret=settings.jwt_secret.get_secret_value() if settings.jwt_secret else None,
            jwks=settings.jwt_jwks,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
        )

    async def check(self, token: str) -> Principal:
        """Say whose token this is.

        Raises:
            NotAuthenticated: Bad signature, algorithm, issuer or audience, expired, or without a usable ``sub``.
            AdapterError: The key set's server doesn't answer, and its keys are not known from before.
        """
        try:
            if self._keys is None:
                claims = self._decode(token, self._secret, ("HS256",))
            else:
                key = await self._keys.find(self._jwt.get_unverified_header(token).get("kid"))
                if key is None:
                    raise self._jwt.InvalidTokenError("no key of this 'kid' in the key set")
                claims = self._decode(token, key, ASYMMETRIC)
        except self._jwt.PyJWTError as error:
            raise NotAuthenticated(f"this JWT is not accepted: {error}") from None
        user = claims.get("sub")
        if not isinstance(user, str) or not USER_ID.fullmatch(user):
            raise NotAuthenticated("expected the user's id in the JWT's claim 'sub'")
        return Principal(
            user_id=user,
            scopes=_scopes_of(claims),
            kind=CredentialKind.JWT,
            projects=_projects_of(claims),
            expires_at=datetime.fromtimestamp(float(claims["exp"]), UTC),
        )

    def _decode(self, token: str, key: Any, algorithms: tuple[str, ...]) -> dict[str, Any]:
        claims: dict[str, Any] = self._jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            issuer=self._issuer,
            audience=self._audience,
            leeway=timedelta(seconds=10),
            options={"require": ["exp", "sub"]},
        )
        return claims


def _scopes_of(claims: Mapping[str, Any]) -> frozenset[Scope]:
    named = claims.get("scope", claims.get("scopes"))
    if named is None:
        return frozenset({Scope.SUBMIT, Scope.READ})
    names = named.split() if isinstance(named, str) else named
    known = set(Scope)
    return frozenset(Scope(name) for name in names if name in known) if isinstance(names, list) else frozenset()


def _projects_of(claims: Mapping[str, Any]) -> frozenset[str] | None:
    named = claims.get("projects")
    if named is None:
        return None
    return frozenset(name for name in named if isinstance(name, str)) if isinstance(named, list) else frozenset()
