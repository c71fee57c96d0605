"""The forge port: what the pull-request job asks of GitHub, GitLab, Gitea, or a repository on this disk.

Every method raises :class:`~corral.errors.ForgeFailed` with one of :class:`Refusal` as its ``reason``. Those in
:data:`RETRYABLE` may go away by themselves; of all others none is worth a retry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, Protocol

from corral.adapters.git import GitRemote
from corral.errors import ForgeFailed


class Refusal(StrEnum):
    """Why a forge did not do what was asked."""

    AUTHENTICATION_FAILED = "authentication_failed"
    """The token is wrong, expired or revoked."""
    PERMISSION_DENIED = "permission_denied"
    """The token may not do this; the message names the permission."""
    REPOSITORY_NOT_FOUND = "repository_not_found"
    """No such repository, or the token may not see it."""
    REPOSITORY_MOVED = "repository_moved"
    REPOSITORY_ARCHIVED = "repository_archived"
    PULL_REQUESTS_DISABLED = "pull_requests_disabled"
    PULL_REQUEST_NOT_FOUND = "pull_request_not_found"
    TARGET_MISSING = "target_missing"
    SOURCE_MISSING = "source_missing"
    BRANCH_PROTECTED = "branch_protected"
    NOTHING_TO_MERGE = "nothing_to_merge"
    TITLE_TOO_LONG = "title_too_long"
    BODY_TOO_LONG = "body_too_long"
    REVIEWER_UNKNOWN = "reviewer_unknown"
    ASSIGNEE_UNKNOWN = "assignee_unknown"
    LABEL_UNKNOWN = "label_unknown"
    DRAFT_UNSUPPORTED = "draft_unsupported"
    AUTO_MERGE_UNSUPPORTED = "auto_merge_unsupported"
    ALREADY_EXISTS = "already_exists"
    """An open pull request for these branches exists: look it up."""
    MERGE_CONFLICT = "merge_conflict"
    NOT_OPEN = "not_open"
    """Merged or closed already."""
    INVALID_REQUEST = "invalid_request"
    """The forge understood the request and refuses it for another reason, which the message quotes."""
    INVALID_ANSWER = "invalid_answer"
    """The answer is not what the forge documents."""
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    """A 5xx answer."""
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"


RETRYABLE: Final = frozenset({Refusal.RATE_LIMITED, Refusal.UNAVAILABLE, Refusal.UNREACHABLE, Refusal.TIMED_OUT})


class PullRequestState(StrEnum):
    """Where a pull request stands on its forge."""

    OPEN = "open"
    MERGED = "merged"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """A pull request as its forge shows it."""

    number: int
    #: For people.
    url: str
    title: str
    body: str
    state: PullRequestState
    draft: bool
    source_branch: str
    target_branch: str
    #: Tip of the source branch.
    head: str
    labels: tuple[str, ...] = ()
    reviewers: tuple[str, ...] = ()
    assignees: tuple[str, ...] = ()
    auto_merge: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPullRequest:
    """What a pull request is opened with."""

    title: str
    body: str
    source_branch: str
    target_branch: str
    #: Full hash of what was pushed to the source branch.
    head: str
    draft: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFacts:
    """What must hold before anything is pushed."""

    default_branch: str
    archived: bool
    #: None when the forge does not tell.
    can_push: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgeLimits:
    """What the forge accepts, in characters."""

    title: int
    body: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What is set after a pull request was opened; each is set by name, and setting it twice changes nothing."""

    labels: tuple[str, ...] = ()
    reviewers: tuple[str, ...] = ()
    assignees: tuple[str, ...] = ()
    auto_merge: bool = False

    def __bool__(self) -> bool:
        return bool(self.labels or self.reviewers or self.assignees or self.auto_merge)


class Forge(Protocol):
    """One kind of forge. Safe to use from many jobs at once."""

    name: str
    limits: ForgeLimits

    async def remote(self, repository: str) -> GitRemote:
        """Where and with which credential git reaches a repository.

        Args:
            repository: The project's address or path.
        """
        ...

    async def describe(self, repository: str) -> RepositoryFacts:
        """What the forge says about a repository.

        Args:
            repository: The project's address or path.

        Raises:
            ForgeFailed: ``repository_not_found``, ``repository_moved``, ``authentication_failed``, …
        """
        ...

    async def find(self, repository: str, *, source_branch: str, target_branch: str) -> list[PullRequest]:
        """Pull requests in any state between two branches of this one repository, newest first.

        Args:
            repository: The project's address or path.
            source_branch: Without ``refs/heads/``.
            target_branch: Likewise.
        """
        ...

    async def get(self, repository: str, number: int) -> PullRequest:
        """One pull request.

        Raises:
            ForgeFailed: ``pull_request_not_found``.
        """
        ...

    async def open(self, repository: str, request: NewPullRequest) -> PullRequest:
        """Open a pull request between two branches that are on the forge already.

        Effects:
            Creates it, once: of two at the same time, one is refused.

        Raises:
            ForgeFailed: ``already_exists``, ``target_missing``, ``source_missing``, ``nothing_to_merge``,
                ``title_too_long``, ``body_too_long``, ``draft_unsupported``, ``permission_denied``, …
        """
        ...

    async def edit(self, repository: str, number: int, *, title: str, body: str) -> PullRequest:
        """Bring title and description up to date.

        Raises:
            ForgeFailed: ``pull_request_not_found``, ``title_too_long``, ``body_too_long``, …
        """
        ...

    async def decorate(self, repository: str, pull_request: PullRequest, extras: Extras) -> PullRequest:
        """Add labels, reviewers and assignees and turn auto-merge on, leaving what is there.

        Raises:
            ForgeFailed: ``reviewer_unknown``, ``assignee_unknown``, ``label_unknown``, ``auto_merge_unsupported``, …
        """
        ...

    async def aclose(self) -> None:
        """Give connections back."""
        ...


#: Tokens as GitHub and GitLab make them, should a forge or a proxy quote one.
_TOKEN: Final = re.compile(r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|gl[a-z]{2,5}-[\w.-]{16,})")


@dataclass(frozen=True, slots=True)
class Refused:
    """Makes one forge's errors."""

    service: str

    def __call__(
        self, refusal: Refusal, operation: str, message: str, *, retry_after: timedelta | None = None
    ) -> ForgeFailed:
        """An error with this reason; retryable as :data:`RETRYABLE` says."""
        return ForgeFailed(
            f"{self.service} {operation}: {_TOKEN.sub('***', message)}",
            service=self.service,
            operation=operation,
            retryable=refusal in RETRYABLE,
            retry_after=retry_after,
            reason=refusal.value,
        )


def check_limits(refused: Refused, operation: str, limits: ForgeLimits, *, title: str, body: str) -> None:
    """Refuse what the forge would refuse, before asking it.

    Raises:
        ForgeFailed: ``title_too_long``, ``body_too_long``.
    """
    if len(title) > limits.title:
        raise refused(
            Refusal.TITLE_TOO_LONG,
            operation,
            f"the title has {len(title)} characters; at most {limits.title} are taken",
        )
    if len(body) > limits.body:
        raise refused(
            Refusal.BODY_TOO_LONG,
            operation,
            f"the description has {len(body)} characters; at most {limits.body} are taken",
        )
