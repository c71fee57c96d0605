"""Gitea and Forgejo: pull requests by their REST API v1."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from corral.adapters.forge.pacing import Pacer
from corral.adapters.forge.port import (
    Extras,
    ForgeLimits,
    NewPullRequest,
    PullRequest,
    PullRequestState,
    Refusal,
    RepositoryFacts,
)
from corral.adapters.forge.rest import PullRequestAnswer, RestApi, RestForge

_DRAFT: Final = "WIP: "
_PAGE: Final = 50
_MOST_PAGES: Final = 20


class _Person(BaseModel):
    login: str


class _Label(BaseModel):
    id: int
    name: str


class _Branch(BaseModel):
    ref: str
    sha: str = ""


class _Permissions(BaseModel):
    push: bool = False


class _GiteaRepository(BaseModel):
    model_config = ConfigDict(extra="ignore")

    default_branch: str = "main"
    archived: bool = False
    has_pull_requests: bool = True
    permissions: _Permissions | None = None


class _GiteaPullRequest(PullRequestAnswer):
    number: int
    html_url: str
    title: str
    body: str | None = None
    state: str
    draft: bool = False
    merged: bool = False
    head: _Branch
    base: _Branch
    labels: list[_Label] | None = Field(default=None)
    requested_reviewers: list[_Person] | None = None
    assignees: list[_Person] | None = None

    def shown(self) -> PullRequest:
        state = PullRequestState.OPEN if self.state == "open" else PullRequestState.CLOSED
        return PullRequest(
            number=self.number,
            url=self.html_url,
            title=self.title.removeprefix(_DRAFT) if self.draft else self.title,
            body=self.body or "",
            state=PullRequestState.MERGED if self.merged else state,
            draft=self.draft,
            source_branch=self.head.ref,
            target_branch=self.base.ref,
            head=self.head.sha,
            labels=tuple(label.name for label in self.labels or ()),
            reviewers=tuple(person.login for person in self.requested_reviewers or ()),
            assignees=tuple(person.login for person in self.assignees or ()),
        )


class GiteaForge(RestForge):
    """Pull requests on Gitea or Forgejo.

    Args:
        token: A token with ``write:repository`` and ``write:issue``.
        url: The forge's address.
        pacer: When something may be created.
        timeout: Longest request.
    """

    name = "gitea"
    limits = ForgeLimits(title=255, body=65_535)
    draft_mark = _DRAFT
    answer = _GiteaPullRequest

    def __init__(
        self, token: SecretStr, *, url: str, pacer: Pacer | None = None, timeout: timedelta = timedelta(seconds=30)
    ) -> None:
        super().__init__(
            RestApi(
                self.name,
                web_url=url,
                api_path="/api/v1",
                token=token,
                scheme="token",
                git_user="corral",
                pacer=pacer,
                timeout=timeout,
            )
        )

    async def describe(self, repository: str) -> RepositoryFacts:
        """What the forge says about a repository; see the port."""
        operation = "look up the repository"
        found = self._api.read(
            operation, _GiteaRepository, await self._api.send(operation, "GET", self._repository(repository))
        )
        if not found.has_pull_requests:
            raise self._api.refused(
                Refusal.PULL_REQUESTS_DISABLED, operation, "pull requests are switched off in the repository's settings"
            )
        return RepositoryFacts(
            default_branch=found.default_branch,
            archived=found.archived,
            can_push=None if found.permissions is None else found.permissions.push,
        )

    async def find(self, repository: str, *, source_branch: str, target_branch: str) -> list[PullRequest]:
        """Pull requests between two branches; see the port. The forge can't filter by branch: newest 1,000 are read."""
        operation = "list pull requests"
        found: list[PullRequest] = []
        for page in range(1, _MOST_PAGES + 1):
            query = {"state": "all", "limit": str(_PAGE), "page": str(page)}
            body = await self._api.send(operation, "GET", f"{self._repository(repository)}/pulls", query=query)
            listed = self._api.read_list(operation, _GiteaPullRequest, body)
            found += [one.shown() for one in listed]
            if len(listed) < _PAGE:
                break
        return [
            one
            for one in sorted(found, key=lambda one: -one.number)
            if (one.source_branch, one.target_branch) == (source_branch, target_branch)
        ]

    async def open(self, repository: str, request: NewPullRequest) -> PullRequest:
        """Open a pull request; see the port. A draft is marked by its title."""
        operation = "open a pull request"
        return await self._one(
            operation,
            "POST",
            f"{self._repository(repository)}/pulls",
            body={
                "title": self._title(operation, request.title, request.body, draft=request.draft),
                "body": request.body,
                "head": request.source_branch,
                "base": request.target_branch,
            },
            refusals={404: Refusal.TARGET_MISSING, 409: Refusal.ALREADY_EXISTS},
        )

    async def edit(self, repository: str, number: int, *, title: str, body: str) -> PullRequest:
        """Bring title and description up to date; see the port. A draft stays one."""
        operation = "edit a pull request"
        there = await self.get(repository, number)
        title = self._title(operation, title, body, draft=there.draft)
        return await self._one(operation, "PATCH", self._place(repository, number), body={"title": title, "body": body})

    async def decorate(self, repository: str, pull_request: PullRequest, extras: Extras) -> PullRequest:
        """Add labels, reviewers, assignees and auto-merge; see the port. Labels must exist."""
        number = pull_request.number
        here = self._repository(repository)
        if extras.labels:
            ids = await self._label_ids(repository, extras.labels)
            await self._api.send("add labels", "POST", f"{here}/issues/{number}/labels", body={"labels": ids})
        if extras.reviewers:
            await self._api.send(
                "ask for reviews",
                "POST",
                f"{here}/pulls/{number}/requested_reviewers",
                body={"reviewers": list(extras.reviewers)},
                refusals={404: Refusal.REVIEWER_UNKNOWN, 422: Refusal.REVIEWER_UNKNOWN},
            )
        if extras.assignees:
            await self._api.send(
                "assign people",
                "PATCH",
                f"{here}/issues/{number}",
                body={"assignees": [*pull_request.assignees, *extras.assignees]},
                refusals={404: Refusal.ASSIGNEE_UNKNOWN, 422: Refusal.ASSIGNEE_UNKNOWN},
            )
        if extras.auto_merge:
            await self._api.send(
                "turn auto-merge on",
                "POST",
                f"{here}/pulls/{number}/merge",
                body={"Do": "merge", "merge_when_checks_succeed": True},
                refusals=dict.fromkeys((405, 409, 422), Refusal.AUTO_MERGE_UNSUPPORTED),
            )
        return await self.get(repository, number)

    # --- inside

    async def _label_ids(self, repository: str, names: tuple[str, ...]) -> list[int]:
        operation = "look labels up"
        known: dict[str, int] = {}
        for page in range(1, _MOST_PAGES + 1):
            query = {"limit": str(_PAGE), "page": str(page)}
            body = await self._api.send(operation, "GET", f"{self._repository(repository)}/labels", query=query)
            listed = self._api.read_list(operation, _Label, body)
            known.update({label.name.casefold(): label.id for label in listed})
            if len(listed) < _PAGE:
                break
        unknown = [name for name in names if name.casefold() not in known]
        if unknown:
            raise self._api.refused(
                Refusal.LABEL_UNKNOWN, operation, f"make these labels in the repository first: {', '.join(unknown)}"
            )
        return [known[name.casefold()] for name in names]

    def _repository(self, repository: str) -> str:
        return f"/repos/{quote(self._api.path(repository))}"

    def _place(self, repository: str, number: int) -> str:
        return f"{self._repository(repository)}/pulls/{number}"
