"""A forge in memory that keeps what it was asked: the double for tests, ours and users'."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

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
from corral.adapters.git import GitRemote
from corral.errors import ForgeFailed


@dataclass(frozen=True, slots=True)
class ForgeCall:
    """One call of the double."""

    operation: str
    repository: str
    arguments: dict[str, Any] = field(default_factory=dict)


class RecordingForge:
    """Behaves as a forge does and keeps every call.

    Args:
        branches: Gives a repository's branches with their tips, when a pull request is opened; None: any branch exists.
        people: Who may be asked and assigned; None: anybody.
        archived: What :meth:`describe` says.
        can_push: Likewise.
        default_branch: Likewise.
    """

    name = "recording"
    limits = ForgeLimits(title=256, body=65_536)

    def __init__(
        self,
        *,
        branches: Callable[[str], Mapping[str, str]] | None = None,
        people: frozenset[str] | None = None,
        archived: bool = False,
        can_push: bool = True,
        default_branch: str = "main",
    ) -> None:
        self._branches = branches
        self._people = people
        self._facts = RepositoryFacts(default_branch=default_branch, archived=archived, can_push=can_push)
        self._refused = Refused(self.name)
        #: Every call, in order.
        self.calls: list[ForgeCall] = []
        #: The pull requests of each repository.
        self.pull_requests: dict[str, list[PullRequest]] = {}
        #: Raised instead of answering, each once: ``(operation, error)``.
        self.fail_next: list[tuple[str, ForgeFailed]] = []

    async def remote(self, repository: str) -> GitRemote:
        """The address itself."""
        self._take("remote", repository)
        return GitRemote(repository)

    async def describe(self, repository: str) -> RepositoryFacts:
        """The facts given."""
        self._take("describe", repository)
        return self._facts

    async def find(self, repository: str, *, source_branch: str, target_branch: str) -> list[PullRequest]:
        """Pull requests between two branches; see the port."""
        self._take("find", repository, source_branch=source_branch, target_branch=target_branch)
        return [
            self._current(repository, one)
            for one in reversed(self.pull_requests.get(repository, []))
            if (one.source_branch, one.target_branch) == (source_branch, target_branch)
        ]

    async def get(self, repository: str, number: int) -> PullRequest:
        """One pull request; see the port."""
        self._take("get", repository, number=number)
        return self._current(repository, self._one(repository, number))

    async def open(self, repository: str, request: NewPullRequest) -> PullRequest:
        """Open a pull request; see the port."""
        self._take("open", repository, request=request)
        check_limits(self._refused, "open", self.limits, title=request.title, body=request.body)
        kept = self.pull_requests.setdefault(repository, [])
        branches = (request.source_branch, request.target_branch)
        if any(
            one.state is PullRequestState.OPEN and (one.source_branch, one.target_branch) == branches for one in kept
        ):
            raise self._refused(Refusal.ALREADY_EXISTS, "open", "one is open for these branches")
        if self._branches is not None:
            tips = self._branches(repository)
            if request.target_branch not in tips:
                raise self._refused(Refusal.TARGET_MISSING, "open", f"there is no branch {request.target_branch!r}")
            if request.source_branch not in tips:
                raise self._refused(Refusal.SOURCE_MISSING, "open", f"there is no branch {request.source_branch!r}")
        number = len(kept) + 1
        opened = PullRequest(
            number=number,
            url=f"{repository}/pull/{number}",
            title=request.title,
            body=request.body,
            state=PullRequestState.OPEN,
            draft=request.draft,
            source_branch=request.source_branch,
            target_branch=request.target_branch,
            head=request.head,
        )
        kept.append(opened)
        return self._current(repository, opened)

    async def edit(self, repository: str, number: int, *, title: str, body: str) -> PullRequest:
        """Bring title and description up to date; see the port."""
        self._take("edit", repository, number=number, title=title, body=body)
        check_limits(self._refused, "edit", self.limits, title=title, body=body)
        return self._put(repository, replace(self._one(repository, number), title=title, body=body))

    async def decorate(self, repository: str, pull_request: PullRequest, extras: Extras) -> PullRequest:
        """Add labels, reviewers, assignees and auto-merge; see the port."""
        self._take("decorate", repository, number=pull_request.number, extras=extras)
        for names, refusal in (
            (extras.reviewers, Refusal.REVIEWER_UNKNOWN),
            (extras.assignees, Refusal.ASSIGNEE_UNKNOWN),
        ):
            unknown = [] if self._people is None else [name for name in names if name not in self._people]
            if unknown:
                raise self._refused(refusal, "decorate", f"unknown: {', '.join(unknown)}")
        there = self._one(repository, pull_request.number)
        return self._put(
            repository,
            replace(
                there,
                labels=tuple(dict.fromkeys((*there.labels, *extras.labels))),
                reviewers=tuple(dict.fromkeys((*there.reviewers, *extras.reviewers))),
                assignees=tuple(dict.fromkeys((*there.assignees, *extras.assignees))),
                auto_merge=there.auto_merge or extras.auto_merge,
            ),
        )

    async def aclose(self) -> None:
        """Nothing is held."""

    def end(self, repository: str, number: int, *, merged: bool) -> PullRequest:
        """Merge or close a pull request, as a person would."""
        state = PullRequestState.MERGED if merged else PullRequestState.CLOSED
        return self._put(repository, replace(self._one(repository, number), state=state))

    # --- inside

    def _take(self, operation: str, repository: str, **arguments: Any) -> None:
        self.calls.append(ForgeCall(operation, repository, arguments))
        for rule in self.fail_next:
            if rule[0] == operation:
                self.fail_next.remove(rule)
                raise rule[1]

    def _one(self, repository: str, number: int) -> PullRequest:
        for one in self.pull_requests.get(repository, []):
            if one.number == number:
                return one
        raise self._refused(Refusal.PULL_REQUEST_NOT_FOUND, "look up", f"there is no #{number} in {repository}")

    def _put(self, repository: str, changed: PullRequest) -> PullRequest:
        self.pull_requests[repository][changed.number - 1] = changed
        return self._current(repository, changed)

    def _current(self, repository: str, kept: PullRequest) -> PullRequest:
        if self._branches is None or kept.state is not PullRequestState.OPEN:
            return kept
        return replace(kept, head=self._branches(repository).get(kept.source_branch, kept.head))
