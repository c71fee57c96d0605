"""GitHub and GitHub Enterprise, by ``githubkit``.

Requests and answers are those of GitHub's REST API (version 2022-11-28) and, for auto-merge, its GraphQL API. The
client's own retries and cache are off: whether something is tried again is the queue's business, and a POST whose
answer was lost is settled by looking the pull request up.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
from githubkit import AppAuthStrategy, BaseAuthStrategy, GitHub
from githubkit.exception import RequestError, RequestFailed, RequestTimeout
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from corral.adapters.forge.http import Answer, checked_address, decoded, owner_and_name, said, transient_failure
from corral.adapters.forge.pacing import Pacer, Unpaced
from corral.adapters.forge.port import (
    Extras,
    ForgeLimits,
    NewPullRequest,
    PullRequest,
    PullRequestState,
    Refusal,
    Refused,
    RepositoryFacts,
    check_limits,
)
from corral.adapters.git import GitCredential, GitRemote
from corral.errors import ConfigurationError, ForgeFailed

_API_VERSION: Final = "2022-11-28"
_RENEW_BEFORE: Final = timedelta(minutes=10)
_AUTO_MERGE: Final = """
mutation($id: ID!) { enablePullRequestAutoMerge(input: {pullRequestId: $id}) { clientMutationId } }
"""

#: What the installation token is asked for, and no more; labels and assignees of pull requests need no other.
APP_PERMISSIONS: Final = {"contents": "write", "pull_requests": "write", "metadata": "read"}


class TokenSource(Protocol):
    """Gives the token for one repository."""

    account: str
    """Tells accounts apart without telling a token."""
    has_role: bool
    """Whether GitHub's ``permissions`` of a repository speak of the token's owner: an App is nobody's collaborator."""

    async def token(self, repository: str) -> str:
        """A token that is good for some minutes yet.

        Args:
            repository: ``owner/name``.
        """
        ...


class PersonalToken:
    """One token for everything that it may see.

    Args:
        token: A fine-grained or classic personal access token.
    """

    def __init__(self, token: SecretStr) -> None:
        self._token = token
        self.has_role = True
        self.account = hashlib.sha256(token.get_secret_value().encode()).hexdigest()[:12]

    async def token(self, _repository: str) -> str:
        """The token itself."""
        return self._token.get_secret_value()


class _InstallationToken(BaseModel):
    model_config = ConfigDict(extra="ignore")

    token: SecretStr
    expires_at: datetime


class AppTokens:
    """Tokens of a GitHub App's installation, each for one repository, renewed ten minutes before they end.

    Args:
        app_id: The App's id or client id.
        installation_id: The installation in the account that owns the repositories.
        private_key: The App's key in PEM, or the path of its file.
        api_url: Base address of the API.
        permissions: What tokens are asked for; None: :data:`APP_PERMISSIONS`.
        timeout: Longest request.

    Raises:
        ConfigurationError: The key can't be read.
    """

    def __init__(
        self,
        *,
        app_id: str,
        installation_id: int,
        private_key: SecretStr,
        api_url: str,
        permissions: Mapping[str, str] | None = None,
        timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        self._auth = AppAuthStrategy(app_id, _pem(private_key))
        self._client = _client(self._auth, api_url, timeout)
        self._installation_id = installation_id
        self._permissions = dict(permissions or APP_PERMISSIONS)
        self._tokens: dict[str, _InstallationToken] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.has_role = False
        self.account = f"app-{app_id}-{installation_id}"

    async def token(self, repository: str) -> str:
        """A token for one repository only.

        Raises:
            ForgeFailed: ``authentication_failed`` (the App's id or key is wrong), ``repository_not_found`` (the App is
                not installed on it), ``permission_denied`` (the App lacks a permission that is asked for).
        """
        async with self._locks.setdefault(repository, asyncio.Lock()):
            kept = self._tokens.get(repository)
            if kept is None or kept.expires_at - datetime.now(UTC) < _RENEW_BEFORE:
                kept = self._tokens[repository] = await self._fresh(repository)
            return kept.token.get_secret_value()

    async def _fresh(self, repository: str) -> _InstallationToken:
        refused = Refused("github")
        operation = "get an installation token"
        answer = await _ask(
            self._client,
            refused,
            operation,
            "POST",
            f"/app/installations/{self._installation_id}/access_tokens",
            body={"repositories": [repository.rsplit("/", 1)[-1]], "permissions": self._permissions},
        )
        if answer.is_error:
            message = said(answer.body)
            refusal = {
                HTTPStatus.NOT_FOUND: Refusal.AUTHENTICATION_FAILED,
                HTTPStatus.UNPROCESSABLE_ENTITY: (
                    Refusal.PERMISSION_DENIED if "permission" in message.lower() else Refusal.REPOSITORY_NOT_FOUND
                ),
            }.get(HTTPStatus(answer.status), _common_refusal(answer, message))
            raise refused(
                refusal,
                operation,
                f"{message}; check the App's id and key, that it is installed on {repository}, and that it has the "
                f"permissions {', '.join(sorted(self._permissions))}",
            )
        try:
            return _InstallationToken.model_validate(answer.body)
        except ValidationError:
            raise refused(Refusal.INVALID_ANSWER, operation, "the answer holds no token") from None


class _Ref(BaseModel):
    ref: str
    sha: str


class _Login(BaseModel):
    login: str


class _Label(BaseModel):
    name: str = ""


class _Team(BaseModel):
    slug: str


class _GitHubPullRequest(BaseModel):
    """What is read of GitHub's pull request; its own typed client refuses GitHub's own example."""

    model_config = ConfigDict(extra="ignore")

    number: int
    node_id: str = ""
    html_url: str
    title: str
    body: str | None = None
    state: str
    draft: bool = False
    merged_at: datetime | None = None
    head: _Ref
    base: _Ref
    labels: list[_Label] = Field(default_factory=list)
    requested_reviewers: list[_Login] | None = None
    requested_teams: list[_Team] | None = None
    assignees: list[_Login] | None = None
    auto_merge: dict[str, Any] | None = None

    def shown(self, owner: str) -> PullRequest:
        state = PullRequestState.OPEN if self.state == "open" else PullRequestState.CLOSED
        teams = [f"{owner}/{team.slug}" for team in self.requested_teams or ()]
        return PullRequest(
            number=self.number,
            url=self.html_url,
            title=self.title,
            body=self.body or "",
            state=PullRequestState.MERGED if self.merged_at is not None else state,
            draft=self.draft,
            source_branch=self.head.ref,
            target_branch=self.base.ref,
            head=self.head.sha,
            labels=tuple(label.name for label in self.labels),
            reviewers=(*(person.login for person in self.requested_reviewers or ()), *teams),
            assignees=tuple(person.login for person in self.assignees or ()),
            auto_merge=self.auto_merge is not None,
        )


@dataclass(slots=True)
class _SourceAuth(BaseAuthStrategy, httpx.Auth):
    """Puts the token of the moment on each request."""

    source: TokenSource = field(repr=False)
    repository: str

    def get_auth_flow(self, github: Any) -> httpx.Auth:  # noqa: ARG002  githubkit's signature
        return self

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        request.headers["Authorization"] = f"Bearer {await self.source.token(self.repository)}"
        yield request


class GitHubForge:
    """Pull requests on GitHub.

    Args:
        tokens: A personal token, or an App's.
        api_url: Base address of the API: ``https://api.github.com``, or ``https://HOST/api/v3`` of an Enterprise.
        pacer: When something may be created.
        timeout: Longest request.
    """

    name = "github"
    limits = ForgeLimits(title=256, body=65_536)

    def __init__(
        self,
        tokens: TokenSource,
        *,
        api_url: str = "https://api.github.com",
        pacer: Pacer | None = None,
        timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        self._tokens = tokens
        self._api_url = checked_address("github_url", api_url)
        self._web = web_address(self._api_url)
        self._pacer = pacer or Unpaced()
        self._timeout = timeout
        self._refused = Refused(self.name)
        self._clients: dict[str, GitHub[Any]] = {}

    async def remote(self, repository: str) -> GitRemote:
        """The repository's address with a token for it."""
        path = self._path(repository)
        return GitRemote(repository, GitCredential("x-access-token", await self._tokens.token(path)))

    async def describe(self, repository: str) -> RepositoryFacts:
        """What GitHub says about a repository; see the port."""
        body = await self._send(repository, "look up the repository", "GET", "")
        if not isinstance(body, dict) or "default_branch" not in body:
            raise self._refused(Refusal.INVALID_ANSWER, "look up the repository", "the answer is not a repository")
        permissions = body.get("permissions") if self._tokens.has_role else None
        return RepositoryFacts(
            default_branch=str(body["default_branch"]),
            archived=bool(body.get("archived")),
            can_push=bool(permissions.get("push")) if isinstance(permissions, dict) else None,
        )

    async def find(self, repository: str, *, source_branch: str, target_branch: str) -> list[PullRequest]:
        """Pull requests between two branches; see the port."""
        owner = self._path(repository).split("/")[0]
        query = {
            "state": "all",
            "head": f"{owner}:{source_branch}",
            "base": target_branch,
            "sort": "created",
            "direction": "desc",
            "per_page": "100",
        }
        body = await self._send(repository, "list pull requests", "GET", "/pulls", query=query)
        if not isinstance(body, list):
            raise self._refused(Refusal.INVALID_ANSWER, "list pull requests", "the answer is not a list")
        found = [self._read(repository, "list pull requests", one) for one in body]
        # GitHub ignores a head that it can't read and lists everything then.
        return [one for one in found if (one.source_branch, one.target_branch) == (source_branch, target_branch)]

    async def get(self, repository: str, number: int) -> PullRequest:
        """One pull request; see the port."""
        body = await self._send(repository, "get a pull request", "GET", f"/pulls/{number}")
        return self._read(repository, "get a pull request", body)

    async def open(self, repository: str, request: NewPullRequest) -> PullRequest:
        """Open a pull request; see the port."""
        check_limits(self._refused, "open a pull request", self.limits, title=request.title, body=request.body)
        body = await self._send(
            repository,
            "open a pull request",
            "POST",
            "/pulls",
            body={
                "title": request.title,
                "body": request.body,
                "head": request.source_branch,
                "base": request.target_branch,
                "draft": request.draft,
                "maintainer_can_modify": True,
            },
        )
        return self._read(repository, "open a pull request", body)

    async def edit(self, repository: str, number: int, *, title: str, body: str) -> PullRequest:
        """Bring title and description up to date; see the port."""
        check_limits(self._refused, "edit a pull request", self.limits, title=title, body=body)
        answer = await self._send(
            repository, "edit a pull request", "PATCH", f"/pulls/{number}", body={"title": title, "body": body}
        )
        return self._read(repository, "edit a pull request", answer)

    async def decorate(self, repository: str, pull_request: PullRequest, extras: Extras) -> PullRequest:
        """Add labels, reviewers, assignees and auto-merge; see the port."""
        number = pull_request.number
        if extras.labels:
            await self._send(
                repository, "add labels", "POST", f"/issues/{number}/labels", body={"labels": list(extras.labels)}
            )
        if extras.reviewers:
            people = [name for name in extras.reviewers if "/" not in name]
            teams = [name.rsplit("/", 1)[-1] for name in extras.reviewers if "/" in name]
            await self._send(
                repository,
                "ask for reviews",
                "POST",
                f"/pulls/{number}/requested_reviewers",
                body={"reviewers": people, "team_reviewers": teams},
            )
        if extras.assignees:
            await self._assign(repository, number, extras.assignees)
        if extras.auto_merge:
            await self._auto_merge(repository, number)
        return await self.get(repository, number)

    async def aclose(self) -> None:
        """Nothing is held: each request has a connection of its own."""
        self._clients.clear()

    # --- inside

    async def _assign(self, repository: str, number: int, names: tuple[str, ...]) -> None:
        operation = "assign people"
        body = await self._send(
            repository, operation, "POST", f"/issues/{number}/assignees", body={"assignees": list(names)}
        )
        # GitHub leaves out whom it can't assign and says nothing.
        have = {
            str(person.get("login", "")).casefold()
            for person in (body.get("assignees") or [] if isinstance(body, dict) else [])
        }
        unknown = [name for name in names if name.casefold() not in have]
        if unknown:
            raise self._refused(
                Refusal.ASSIGNEE_UNKNOWN, operation, f"can't be assigned in this repository: {', '.join(unknown)}"
            )

    async def _auto_merge(self, repository: str, number: int) -> None:
        operation = "turn auto-merge on"
        found = await self._send(repository, operation, "GET", f"/pulls/{number}")
        node = str(found.get("node_id", "")) if isinstance(found, dict) else ""
        client = self._client(self._path(repository))
        await self._pacer.turn()
        answer = await _ask(
            client,
            self._refused,
            operation,
            "POST",
            _graphql_path(self._api_url),
            body={"query": _AUTO_MERGE, "variables": {"id": node}},
        )
        errors = answer.body.get("errors") if isinstance(answer.body, dict) else answer.body
        if answer.is_error or errors:
            raise self._refused(
                Refusal.AUTO_MERGE_UNSUPPORTED,
                operation,
                f"{said(errors)}; allow auto-merge in the repository's settings and protect the target branch by a "
                "required check",
            )

    def _path(self, repository: str) -> str:
        path = owner_and_name(self._refused, repository, web=self._web)
        if path.count("/") != 1:
            raise self._refused(
                Refusal.REPOSITORY_NOT_FOUND, "look up", f"expected {self._web}/owner/name, got {repository!r}"
            )
        return path

    def _client(self, path: str) -> GitHub[Any]:
        if path not in self._clients:
            self._clients[path] = _client(_SourceAuth(self._tokens, path), self._api_url, self._timeout)
        return self._clients[path]

    async def _send(
        self,
        repository: str,
        operation: str,
        method: str,
        tail: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        path = self._path(repository)
        if method != "GET":
            await self._pacer.turn()
        answer = await _ask(
            self._client(path),
            self._refused,
            operation,
            method,
            f"/repos/{quote(path)}{tail}",
            query=query,
            body=body,
        )
        if answer.is_error:
            raise self._failure(operation, answer, tail)
        return answer.body

    def _read(self, repository: str, operation: str, body: Any) -> PullRequest:
        try:
            return _GitHubPullRequest.model_validate(body).shown(self._path(repository).split("/")[0])
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
            raise self._refused(
                Refusal.INVALID_ANSWER, operation, f"the answer is not a pull request: {fields}"
            ) from None

    def _failure(self, operation: str, answer: Answer, tail: str) -> ForgeFailed:
        message = said(answer.body)
        refusal = _common_refusal(answer, message)
        if answer.status == HTTPStatus.NOT_FOUND and tail:
            # The repository was found before, so something in it is missing, or GitHub hides it from this token.
            refusal = Refusal.PULL_REQUEST_NOT_FOUND if re.search(r"/\d+", tail) else Refusal.PERMISSION_DENIED
        elif answer.status == HTTPStatus.GONE:
            refusal = Refusal.PULL_REQUESTS_DISABLED
        elif answer.status == HTTPStatus.UNPROCESSABLE_ENTITY:
            refusal = _validation_refusal(answer.body, message, tail)
        needed = answer.headers.get("x-accepted-github-permissions")
        if refusal is Refusal.PERMISSION_DENIED and needed:
            message = f"{message}; the token needs {needed}"
        return self._refused(refusal, operation, message)


def web_address(api_url: str) -> str:
    """Where people and git find the repositories of an API address.

    ``https://api.github.com`` is ``https://github.com``; ``https://api.NAME.ghe.com`` is ``https://NAME.ghe.com``;
    ``https://HOST/api/v3`` is ``https://HOST``.
    """
    parts = urlsplit(api_url)
    return urlunsplit((parts.scheme, parts.netloc.removeprefix("api."), "", "", ""))


def _graphql_path(api_url: str) -> str:
    parts = urlsplit(api_url)
    path = re.sub(r"/v3$", "/graphql", parts.path) if parts.path.endswith("/v3") else f"{parts.path}/graphql"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _client(auth: BaseAuthStrategy, api_url: str, timeout: timedelta) -> GitHub[Any]:
    return GitHub(
        auth,
        base_url=api_url,
        user_agent="corral",
        follow_redirects=False,
        timeout=timeout.total_seconds(),
        ssl_verify=_tls(),
        http_cache=False,
        auto_retry=False,
    )


_TLS: list[ssl.SSLContext] = []


def _tls() -> ssl.SSLContext:
    """One context for all: making it takes longer than a request."""
    if not _TLS:
        _TLS.append(httpx.create_ssl_context())
    return _TLS[0]


async def _ask(
    client: GitHub[Any],
    refused: Refused,
    operation: str,
    method: str,
    url: str,
    *,
    query: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
) -> Answer:
    """Send one request and give its answer, refusals too; rate limits, 5xx and broken connections are raised."""
    try:
        raw = (
            await client.arequest(
                method,
                url,
                params=query,
                json=body,
                headers={"X-GitHub-Api-Version": _API_VERSION, "Accept": "application/vnd.github+json"},
            )
        ).raw_response
    except RequestFailed as error:
        raw = error.response.raw_response
    except RequestTimeout:
        raise refused(Refusal.TIMED_OUT, operation, "gave no answer in time") from None
    except RequestError as error:
        if isinstance(error.exc, ForgeFailed):  # the token could not be had
            raise error.exc from None
        raise refused(Refusal.UNREACHABLE, operation, f"{type(error.exc).__name__}: {error.exc}") from None
    headers = {name.lower(): value for name, value in raw.headers.items()}
    answer = Answer(raw.status_code, headers, decoded(raw.content))
    if (transient := transient_failure(refused, operation, answer)) is not None:
        raise transient
    return answer


def _common_refusal(answer: Answer, message: str) -> Refusal:
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return Refusal.AUTHENTICATION_FAILED
    if answer.status == HTTPStatus.FORBIDDEN:
        return Refusal.REPOSITORY_ARCHIVED if "archived" in message.lower() else Refusal.PERMISSION_DENIED
    if answer.status == HTTPStatus.NOT_FOUND:
        return Refusal.REPOSITORY_NOT_FOUND
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        return Refusal.REPOSITORY_MOVED
    return Refusal.INVALID_REQUEST


_MESSAGES: Final = (
    (re.compile(r"pull request already exists", re.IGNORECASE), Refusal.ALREADY_EXISTS),
    (re.compile(r"no commits between", re.IGNORECASE), Refusal.NOTHING_TO_MERGE),
    (re.compile(r"title is too long", re.IGNORECASE), Refusal.TITLE_TOO_LONG),
    (re.compile(r"body is too long", re.IGNORECASE), Refusal.BODY_TOO_LONG),
    (re.compile(r"draft pull requests are not supported", re.IGNORECASE), Refusal.DRAFT_UNSUPPORTED),
    (re.compile(r"archived", re.IGNORECASE), Refusal.REPOSITORY_ARCHIVED),
)


_BY_PATH: Final = (
    ("/requested_reviewers", Refusal.REVIEWER_UNKNOWN),
    ("/labels", Refusal.LABEL_UNKNOWN),
    ("/assignees", Refusal.ASSIGNEE_UNKNOWN),
)


def _validation_refusal(body: Any, message: str, tail: str) -> Refusal:
    """What a 422 is about: GitHub tells it by text, by the call, or by the name of the field."""
    errors = body.get("errors") if isinstance(body, dict) else None
    fields = {str(one.get("field")) for one in errors or () if isinstance(one, dict)}
    told = [refusal for pattern, refusal in _MESSAGES if pattern.search(message)]
    told += [refusal for ending, refusal in _BY_PATH if tail.endswith(ending)]
    told += [Refusal.TARGET_MISSING] if "base" in fields else []
    told += [Refusal.SOURCE_MISSING] if "head" in fields else []
    return told[0] if told else Refusal.INVALID_REQUEST


def _pem(private_key: SecretStr) -> str:
    given = private_key.get_secret_value().strip()
    if given.startswith("-----BEGIN"):
        return given.replace("\\n", "\n")
    try:
        return Path(given).expanduser().read_text()
    except (OSError, ValueError):
        raise ConfigurationError(
            "github_app_private_key: expected the App's key in PEM, or the path of a readable file with it"
        ) from None
