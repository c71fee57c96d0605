"""Whether a request is let in: who sent it, from where, may they, and how often."""

from __future__ import annotations

from typing import Final

from fastapi import Request

from corral.errors import NotAuthenticated, NotPermitted, TooManyRequests
from corral.interfaces.identity import Authenticator, Principal, Scope, is_loopback, local_principal
from corral.ratelimit import RateLimit, RateLimiter

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Admits a request or raises.

    Args:
        authenticator: Knows the credentials.
        limiter: Counts requests; None counts nothing.
        request_limit: Requests a minute per user and endpoint; 0: no limit.
    """

    def __init__(self, *, authenticator: Authenticator, limiter: RateLimiter | None, request_limit: int) -> None:
        self.authenticator = authenticator
        self.limiter = limiter
        self.request_limit = request_limit

    async def identify(self, request: Request) -> Principal:
        """Say who sent the request.

        Raises:
            NotAuthenticated: No credential, or a wrong one.
            NotPermitted: None is needed here, but the request doesn't come from a program on this machine.
        """
        header = request.headers.get("authorization")
        if header is not None:
            scheme, _, credential = header.partition(" ")
            if scheme.lower() != "bearer" or not credential:
                raise NotAuthenticated("expected the header 'Authorization: Bearer <token>'")
            return await self.authenticator.check(credential.strip())
        if await self.authenticator.is_open():
            refuse_strangers(request)
            return local_principal()
        raise NotAuthenticated("expected the header 'Authorization: Bearer <token>'")

    async def admit(self, request: Request, scope: Scope, endpoint: str) -> Principal:
        """Let a request in; leaves the answer's rate-limit header fields in the request's state.

        Raises:
            NotAuthenticated: See `identify`.
            NotPermitted: The caller lacks ``scope``; see also `identify`.
            TooManyRequests: The caller's limit at this endpoint is used up.
        """
        principal = await self.identify(request)
        limit = self.request_limit if principal.request_limit is None else principal.request_limit
        if self.limiter is not None and limit > 0:
            decision = await self.limiter.hit(principal.user_id, endpoint, RateLimit(limit=limit))
            headers = decision.headers()
            request.state.limit_headers = headers
            if not decision.allowed:
                raise TooManyRequests(
                    f"expected at most {limit} requests a minute to {endpoint!r}; "
                    f"try again in {headers['Retry-After']} s",
                    retry_after=decision.retry_after,
                )
        principal.require(scope)
        return principal


def refuse_strangers(request: Request) -> None:
    """Keep others out while no credential is needed: other machines, proxies, and web pages in this one's browser.

    Raises:
        NotPermitted: The peer isn't loopback, the request came through a proxy, its Host is another name (DNS
            rebinding), or a page of another site made the browser send it.
    """
    peer = request.client.host if request.client else ""
    if peer and not is_loopback(peer):  # a unix socket has no peer address
        raise NotPermitted("no token is configured, so only this machine is served: corral token create")
    if "forwarded" in request.headers or "x-forwarded-for" in request.headers:
        raise NotPermitted("no token is configured, so nothing is served through a proxy: corral token create")
    host = request.headers.get("host", "")
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if not is_loopback(name):
        raise NotPermitted(f"no token is configured, so Host must name this machine, got {host!r}")
    refuse_other_sites(request)


def refuse_other_sites(request: Request) -> None:
    """Refuse what a page of another site made the browser send (CSRF), for requests that could change something.

    Raises:
        NotPermitted: It came from another site.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    is_change = request.method not in _SAFE
    if site is not None:  # the browser itself says it
        is_navigation = not is_change and request.headers.get("sec-fetch-mode") == "navigate"
        is_foreign = site not in {"none", "same-origin"} and not is_navigation
    else:
        is_foreign = is_change and origin is not None and origin.partition("://")[2] != request.headers.get("host")
    if is_foreign:
        raise NotPermitted("a page of another site sent this request")
