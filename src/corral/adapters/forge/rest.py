"""What GitLab and Gitea share: a REST API with one token, asked by httpx, and drafts that are marked by their title."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any, ClassVar, Final, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from corral.adapters.forge.http import Answer, checked_address, decoded, owner_and_name, said, transient_failure
from corral.adapters.forge.pacing import Pacer, Unpaced
from corral.adapters.forge.port import ForgeLimits, PullRequest, Refusal, Refused, check_limits
from corral.adapters.git import GitCredential, GitRemote
from corral.errors import ForgeFailed

M = TypeVar("M", bound=BaseModel)


class PullRequestAnswer(BaseModel, ABC):
    """A pull request as one forge answers it; what isn't read is ignored."""

    model_config = ConfigDict(extra="ignore")

    @abstractmethod
    def shown(self) -> PullRequest:
        """The same as the port shows it."""


_REFUSALS: Final[Mapping[int, Refusal]] = {
    HTTPStatus.UNAUTHORIZED: Refusal.AUTHENTICATION_FAILED,
    HTTPStatus.FORBIDDEN: Refusal.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: Refusal.REPOSITORY_NOT_FOUND,
    HTTPStatus.LOCKED: Refusal.REPOSITORY_ARCHIVED,
    HTTPStatus.CONFLICT: Refusal.ALREADY_EXISTS,
}


class RestApi:
    """One forge's API.

    Args:
        service: The forge's name, for errors.
        web_url: Its address for people and for git.
        api_path: Where the API is, below that.
        token: The token.
        scheme: How the ``Authorization`` header names it.
        git_user: User name that goes with the token in git's requests.
        pacer: When something may be created.
        timeout: Longest request.
    """

    def __init__(
        self,
        service: str,
        *,
        web_url: str,
        api_path: str,
        token: SecretStr,
        scheme: str,
        git_user: str,
        pacer: Pacer | None,
        timeout: timedelta,
    ) -> None:
        self.refused = Refused(service)
        self._web = checked_address(f"{service}_url", web_url)
        self._base = self._web + api_path
        self._token = token
        self._scheme = scheme
        self._git_user = git_user
        self._pacer = pacer or Unpaced()
        self._timeout_s = timeout.total_seconds()
        self._client: httpx.AsyncClient | None = None

    def path(self, repository: str) -> str:
        """``owner/name`` of a repository on this forge."""
        return owner_and_name(self.refused, repository, web=self._web)

    def remote(self, repository: str) -> GitRemote:
        """How git reaches a repository, for which it must be on this forge."""
        self.path(repository)
        return GitRemote(repository, GitCredential(self._git_user, self._token.get_secret_value()))

    async def ask(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Send one request and give its answer, refusals too.

        Raises:
            ForgeFailed: ``rate_limited``, ``unavailable``, ``unreachable``, ``timed_out``.
        """
        if method != "GET":
            await self._pacer.turn()
        if self._client is None:
            self._client = httpx.AsyncClient(follow_redirects=False, timeout=self._timeout_s)
        headers = {"Authorization": f"{self._scheme} {self._token.get_secret_value()}", "User-Agent": "corral"}
        try:
            raw = await self._client.request(method, self._base + path, params=query, json=body, headers=headers)
        except httpx.TimeoutException:
            raise self.refused(Refusal.TIMED_OUT, operation, "gave no answer in time") from None
        except httpx.HTTPError as error:
            raise self.refused(Refusal.UNREACHABLE, operation, f"{type(error).__name__}: {error}") from None
        answer = Answer(
            raw.status_code, {name.lower(): value for name, value in raw.headers.items()}, decoded(raw.content)
        )
        if (transient := transient_failure(self.refused, operation, answer)) is not None:
            raise transient
        return answer

    async def send(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        refusals: Mapping[int, Refusal] | None = None,
    ) -> Any:
        """Send one request and give its decoded answer.

        Args:
            operation: For errors.
            method: HTTP method.
            path: Below the API's address, quoted already.
            query: Query parameters.
            body: JSON.
            refusals: What statuses mean for this call, before what they mean in general.

        Raises:
            ForgeFailed: The forge refused.
        """
        answer = await self.ask(operation, method, path, query=query, body=body)
        if answer.is_error:
            raise self.failure(operation, answer, refusals)
        return answer.body

    def failure(self, operation: str, answer: Answer, refusals: Mapping[int, Refusal] | None = None) -> ForgeFailed:
        """The error for a refusal."""
        message = said(answer.body)
        refusal = _REFUSALS.get(answer.status, Refusal.INVALID_REQUEST)
        if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
            refusal = Refusal.REPOSITORY_MOVED
        elif answer.status == HTTPStatus.FORBIDDEN and "archived" in message.lower():
            refusal = Refusal.REPOSITORY_ARCHIVED
        return self.refused((refusals or {}).get(answer.status, refusal), operation, message)

    def read(self, operation: str, model: type[M], body: Any) -> M:
        """An answer as a model.

        Raises:
            ForgeFailed: ``invalid_answer``.
        """
        try:
            return model.model_validate(body)
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
            raise self.refused(
                Refusal.INVALID_ANSWER, operation, f"the answer is not what is documented: {fields}"
            ) from None

    def read_list(self, operation: str, model: type[M], body: Any) -> list[M]:
        """A list of models; see :meth:`read`."""
        if not isinstance(body, list):
            raise self.refused(Refusal.INVALID_ANSWER, operation, "the answer is not a list")
        return [self.read(operation, model, one) for one in body]

    async def aclose(self) -> None:
        """Give the connections back."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


class RestForge(ABC):
    """What is the same on every forge that :class:`RestApi` asks.

    Args:
        api: Asks it.
    """

    name: str
    limits: ForgeLimits
    #: Begins the title of a draft.
    draft_mark: ClassVar[str]
    #: How a pull request is answered.
    answer: ClassVar[type[PullRequestAnswer]]

    def __init__(self, api: RestApi) -> None:
        self._api = api

    async def remote(self, repository: str) -> GitRemote:
        """The repository's address with the token for it."""
        return self._api.remote(repository)

    async def get(self, repository: str, number: int) -> PullRequest:
        """One pull request; see the port."""
        refusals = {404: Refusal.PULL_REQUEST_NOT_FOUND}
        return await self._one("get a pull request", "GET", self._place(repository, number), refusals=refusals)

    async def aclose(self) -> None:
        """Give the connections back."""
        await self._api.aclose()

    # --- inside

    @abstractmethod
    def _place(self, repository: str, number: int) -> str:
        """Where a pull request is, below the API's address."""

    async def _one(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        refusals: Mapping[int, Refusal] | None = None,
    ) -> PullRequest:
        """Send a request that is answered by a pull request."""
        answered = await self._api.send(operation, method, path, body=body, refusals=refusals)
        return self._api.read(operation, self.answer, answered).shown()

    def _title(self, operation: str, title: str, body: str, *, draft: bool) -> str:
        """The title to send.

        Raises:
            ForgeFailed: ``title_too_long``, ``body_too_long``.
        """
        marked = f"{self.draft_mark}{title}" if draft else title
        check_limits(self._api.refused, operation, self.limits, title=marked, body=body)
        return marked
