"""GitLab, its own or gitlab.com: merge requests by REST API v4."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
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

_DEVELOPER: Final = 30
_DRAFT: Final = "Draft: "
_STATES: Final = {
    "opened": PullRequestState.OPEN,
    "locked": PullRequestState.OPEN,
    "merged": PullRequestState.MERGED,
    "closed": PullRequestState.CLOSED,
}


class _Person(BaseModel):
    username: str
    id: int


class _Access(BaseModel):
    access_level: int = 0


class _Permissions(BaseModel):
    project_access: _Access | None = None
    group_access: _Access | None = None


class _GitLabProject(BaseModel):
    model_config = ConfigDict(extra="ignore")

    default_branch: str | None = None
    archived: bool = False
    permissions: _Permissions | None = None


class _MergeRequest(PullRequestAnswer):
    iid: int
    web_url: str
    title: str
    description: str | None = None
    state: str
    draft: bool = False
    source_branch: str
    target_branch: str
    sha: str | None = None
    labels: list[str] = Field(default_factory=list)
    reviewers: list[_Person] = Field(default_factory=list)
    assignees: list[_Person] = Field(default_factory=list)
    merge_when_pipeline_succeeds: bool = False

    def shown(self) -> PullRequest:
        return PullRequest(
            number=self.iid,
            url=self.web_url,
            title=self.title.removeprefix(_DRAFT) if self.draft else self.title,
            body=self.description or "",
            state=_STATES.get(self.state, PullRequestState.CLOSED),
            draft=self.draft,
            source_branch=self.source_branch,
            target_branch=self.target_branch,
            head=self.sha or "",
            labels=tuple(self.labels),
            reviewers=tuple(person.username for person in self.reviewers),
            assignees=tuple(person.username for person in self.assignees),
            auto_merge=self.merge_when_pipeline_succeeds,
        )


class GitLabForge(RestForge):
    """Merge requests on GitLab.

    Args:
        token: A project or personal access token with the scopes ``api`` and ``write_repository``.
        url: GitLab's address.
        pacer: When something may be created.
        timeout: Longest request.
    """

    name = "gitlab"
    limits = ForgeLimits(title=255, body=1_048_576)
    draft_mark = _DRAFT
    answer = _MergeRequest

    def __init__(
        self,
        token: SecretStr,
        *,
        url: str = "https://gitlab.com",
        pacer: Pacer | None = None,
        timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        super().__init__(
            RestApi(
                self.name,
                web_url=url,
                api_path="/api/v4",
                token=token,
                scheme="Bearer",
                git_user="oauth2",
                pacer=pacer,
                timeout=timeout,
            )
        )

    async def describe(self, repository: str) -> RepositoryFacts:
        """What GitLab says about a project; see the port."""
        operation = "look up the project"
        body = await self._api.send(operation, "GET", self._project(repository))
        found = self._api.read(operation, _GitLabProject, body)
        allowed = None
        if found.permissions is not None:
            access = (found.permissions.project_access, found.permissions.group_access)
            levels = [one.access_level for one in access if one is not None]
            allowed = max(levels) >= _DEVELOPER if levels else None  # an administrator has neither
        return RepositoryFacts(default_branch=found.default_branch or "main", archived=found.archived, can_push=allowed)

    async def find(self, repository: str, *, source_branch: str, target_branch: str) -> list[PullRequest]:
        """Merge requests between two branches; see the port."""
        operation = "list merge requests"
        query = {
            "source_branch": source_branch,
            "target_branch": target_branch,
            "state": "all",
            "order_by": "created_at",
            "sort": "desc",
            "per_page": "100",
        }
        body = await self._api.send(operation, "GET", f"{self._project(repository)}/merge_requests", query=query)
        return [one.shown() for one in self._api.read_list(operation, _MergeRequest, body)]

    async def open(self, repository: str, request: NewPullRequest) -> PullRequest:
        """Open a merge request; see the port. GitLab marks a draft by its title."""
        operation = "open a merge request"
        return await self._one(
            operation,
            "POST",
            f"{self._project(repository)}/merge_requests",
            body={
                "source_branch": request.source_branch,
                "target_branch": request.target_branch,
                "title": self._title(operation, request.title, request.body, draft=request.draft),
                "description": request.body,
                "remove_source_branch": True,
            },
            refusals={404: Refusal.PERMISSION_DENIED, 409: Refusal.ALREADY_EXISTS},
        )

    async def edit(self, repository: str, number: int, *, title: str, body: str) -> PullRequest:
        """Bring title and description up to date; see the port. A draft stays one."""
        operation = "edit a merge request"
        there = await self.get(repository, number)
        title = self._title(operation, title, body, draft=there.draft)
        return await self._put(repository, number, operation, {"title": title, "description": body})

    async def decorate(self, repository: str, pull_request: PullRequest, extras: Extras) -> PullRequest:
        """Add labels, reviewers, assignees and auto-merge; see the port. GitLab makes unknown labels."""
        operation = "add labels and people"
        changes: dict[str, Any] = {}
        if extras.labels:
            changes["add_labels"] = ",".join(extras.labels)
        if extras.reviewers:
            names = (*pull_request.reviewers, *extras.reviewers)
            changes["reviewer_ids"] = [await self._user(name, Refusal.REVIEWER_UNKNOWN) for name in names]
        if extras.assignees:
            names = (*pull_request.assignees, *extras.assignees)
            changes["assignee_ids"] = [await self._user(name, Refusal.ASSIGNEE_UNKNOWN) for name in names]
        number = pull_request.number
        shown = await self._put(repository, number, operation, changes) if changes else pull_request
        for wanted, have, refusal in (
            (extras.reviewers, shown.reviewers, Refusal.REVIEWER_UNKNOWN),
            (extras.assignees, shown.assignees, Refusal.ASSIGNEE_UNKNOWN),
        ):
            # GitLab leaves out who may not see the project, and all but one on its free plan, and says nothing.
            left_out = [name for name in wanted if name.casefold() not in {one.casefold() for one in have}]
            if left_out:
                raise self._api.refused(
                    refusal,
                    operation,
                    f"did not take {', '.join(left_out)}; they may not see the project, or its plan allows only one",
                )
        if extras.auto_merge:
            unsupported = dict.fromkeys((401, 405, 406, 409, 422), Refusal.AUTO_MERGE_UNSUPPORTED)
            shown = await self._one(
                "turn auto-merge on",
                "PUT",
                f"{self._place(repository, number)}/merge",
                body={"auto_merge": True, "merge_when_pipeline_succeeds": True},
                refusals=unsupported,
            )
        return shown

    # --- inside

    async def _put(self, repository: str, number: int, operation: str, changes: dict[str, Any]) -> PullRequest:
        refusals = {404: Refusal.PULL_REQUEST_NOT_FOUND}
        return await self._one(operation, "PUT", self._place(repository, number), body=changes, refusals=refusals)

    async def _user(self, name: str, refusal: Refusal) -> int:
        operation = "look a person up"
        body = await self._api.send(operation, "GET", "/users", query={"username": name})
        found = self._api.read_list(operation, _Person, body)
        if not found:
            raise self._api.refused(refusal, operation, f"there is no user {name!r}")
        return found[0].id

    def _project(self, repository: str) -> str:
        return f"/projects/{quote(self._api.path(repository), safe='')}"

    def _place(self, repository: str, number: int) -> str:
        return f"{self._project(repository)}/merge_requests/{number}"
