"""What every endpoint has in its hands: the Corral, its guard, and the caller with the rules that apply to them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from urllib.parse import quote

from fastapi import Depends, Request

from corral.errors import JobNotFound, UnknownJobType
from corral.interfaces.http.admission import Guard
from corral.interfaces.identity import Authenticator, Principal, TokenStore
from corral.interfaces.jwts import JwtVerifier
from corral.queue.retry import without_frames
from corral.ratelimit import RateLimiter

if TYPE_CHECKING:
    from corral.client import Corral
    from corral.queue.status import JobStatus


class Api:
    """The state behind the routes of one Corral.

    Args:
        corral: Connected with the first request, when it isn't yet.
        authenticator: None takes the settings' own: API tokens, and JWTs where they are configured.
        search: Answers code searches; None: the Corral's own index.
    """

    def __init__(
        self, corral: Corral, *, authenticator: Authenticator | None = None, search: SearchPort | None = None
    ) -> None:
        self.corral = corral
        self.settings = corral.settings
        self.search = search
        #: Set when the server is about to stop, so that endless answers (SSE, long polls) end.
        self.closing = asyncio.Event()
        self._authenticator = authenticator
        self._guard: Guard | None = None
        self._lock = asyncio.Lock()

    async def guard(self) -> Guard:
        """The guard of the endpoints; connects first.

        Raises:
            StoreUnavailable: Redis can't be reached.
        """
        if self._guard is not None:
            return self._guard
        async with self._lock:
            if self._guard is None:
                await self.corral.connect()
                settings = self.settings
                authenticator = self._authenticator or Authenticator(
                    TokenStore(self.corral.redis, prefix=self.corral.namespace), JwtVerifier.from_settings(settings)
                )
                self._guard = Guard(
                    authenticator=authenticator,
                    limiter=RateLimiter(self.corral, prefix=self.corral.namespace),
                    request_limit=settings.request_limit,
                )
            return self._guard

    @staticmethod
    def job_path(answer: dict[str, Any]) -> str:
        """A job's place, relative to the router's prefix."""
        return f"/v1/jobs/{quote(answer['jobType'], safe='')}/{quote(answer['id'], safe='')}"


class SearchPort(Protocol):
    """What answers code searches."""

    async def search(
        self,
        project_id: str,
        query: str,
        *,
        limit: int = 10,
        branch: str = "",
        languages: Iterable[str] = (),
        paths: Sequence[str] = (),
        kinds: Iterable[str] = (),
    ) -> Sequence[Any]:
        """Hits, best first."""
        ...

    async def neighbourhood(self, project_id: str, path: str, *, max_tokens: int = 4000, branch: str = "") -> Any:
        """What is around a file."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was let in."""

    api: Api
    principal: Principal

    @property
    def corral(self) -> Corral:
        """The queues."""
        return self.api.corral

    def known(self, job_type: str) -> str:
        """The job type, if it is declared.

        Raises:
            UnknownJobType: It isn't.
        """
        if job_type not in self.corral.job_types:
            names = ", ".join(sorted(self.corral.job_types)) or "none"
            raise UnknownJobType(f"expected a declared job type ({names}), got {job_type!r}")
        return job_type

    async def job(self, job_type: str, job_id: str) -> JobStatus:
        """A job that the caller may see; of its stacks, those who see only their own jobs get no frames.

        Raises:
            UnknownJobType: No such type.
            JobNotFound: No such job, or somebody else's: the two look the same.
        """
        status = await self.corral.get_job_status(self.known(job_type), job_id)
        if not await self.may_see(status):
            raise JobNotFound(f"there is no job {job_id!r} in {job_type!r}")
        if self.principal.sees_everyone:
            return status
        return replace(status, stacktrace=tuple(map(without_frames, status.stacktrace)))

    async def may_see(self, status: JobStatus) -> bool:
        """Whether the job is the caller's, or they see everybody's."""
        if self.principal.sees_everyone:
            return True
        if status.user_id is not None:
            return self.principal.owns(status.user_id)
        recorded = await self.corral.redis.get(self.owner_key(status.job_type, status.id))
        return recorded is not None and self.principal.owns(str(recorded))

    def owner_key(self, job_type: str, job_id: str) -> str:
        """STRING with a time to live: the user who added a job whose payload has no ``userId``."""
        return f"{self.corral.namespace}:owner:{job_type}:{job_id}"


async def _call(request: Request) -> Call:
    call: Call = request.state.call
    return call


CallDep = Annotated[Call, Depends(_call)]
