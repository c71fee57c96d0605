"""A project's pull requests on the local forge, as the command line, the HTTP API and the dashboard show them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from corral.adapters.forge.local import LocalForge, LocalPullRequest
from corral.adapters.forge.port import PullRequestState, Refusal
from corral.adapters.mirror import FileChange
from corral.errors import ForgeFailed, GitFailed
from corral.jobs.pr_creation.description import test_summary_in
from corral.projects import ForgeKind, Project

if TYPE_CHECKING:
    from corral.client import Corral

#: ``reason`` of the refusal to show pull requests that another forge keeps.
ON_ANOTHER_FORGE: Final = "on_another_forge"
_DIFF_BYTES: Final = 4 * 1024 * 1024
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_HEADING: Final = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
_SIGNATURE: Final = "---\nOpened by Corral for user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One pull request with all that is needed to judge it."""

    pull_request: LocalPullRequest
    #: The body without comments and without the test summary.
    description: str
    #: What the body says of the tests; None when it says nothing.
    test_summary: str | None
    files: tuple[FileChange, ...]
    #: A unified diff; None when it is larger than 4 MiB.
    diff: str | None


class PullRequests:
    """The pull requests of one project.

    Args:
        forge: Keeps them.
        project: Must be on the local forge.
    """

    def __init__(self, forge: LocalForge, project: Project) -> None:
        self._forge = forge
        self._repository = project.repository

    @classmethod
    async def of(cls, corral: Corral, project_id: str) -> Self:
        """Those of a registered project.

        Raises:
            UnknownProject: There is none of this id.
            ForgeFailed: ``on_another_forge``.
        """
        project = await corral.parts.projects.get(project_id)
        refused = ForgeFailed(
            f"the pull requests of {project.id!r} are on {project.forge.value}: see, merge and close them there "
            f"({project.repository})",
            service=project.forge.value,
            operation="look up",
            retryable=False,
            reason=ON_ANOTHER_FORGE,
        )
        if not is_local(project):
            raise refused
        forge = corral.parts.forges.of(project)
        if not isinstance(forge, LocalForge):
            raise refused
        return cls(forge, project)

    async def list(self, *, state: PullRequestState | None = None) -> list[LocalPullRequest]:
        """Newest first.

        Args:
            state: Only those; None: all.

        Raises:
            ForgeFailed: ``repository_not_found``.
        """
        return await self._forge.list_pull_requests(self._repository, state=state)

    async def review(self, number: int) -> Review:
        """One, with its diff and its conflicts of the moment.

        Raises:
            ForgeFailed: ``pull_request_not_found``, ``repository_not_found``.
        """
        shown = await self._forge.show(self._repository, number)
        files = await self._forge.changes(self._repository, number)
        diff: str | None = None
        try:
            diff = await self._forge.diff(self._repository, number, max_bytes=_DIFF_BYTES)
        except GitFailed as error:
            if error.reason != "output_too_large":
                raise
        description, tests = split_body(shown.body)
        return Review(pull_request=shown, description=description, test_summary=tests, files=tuple(files), diff=diff)

    async def merge(self, number: int) -> LocalPullRequest:
        """Merge one into its target branch.

        Raises:
            ForgeFailed: ``merge_conflict``, the files named; and what `LocalForge.merge` says.
            GitFailed: ``branch_moved``: somebody else was quicker; nothing was changed.
        """
        try:
            return await self._forge.merge(self._repository, number)
        except ForgeFailed as error:
            if error.reason != Refusal.MERGE_CONFLICT:
                raise
            kept = await self._forge.show(self._repository, number)
            raise ForgeFailed(
                f"{error}. Mend: merge {kept.target_branch} into {kept.source_branch}, push, and merge again",
                service=error.service,
                operation=error.operation,
                retryable=False,
                reason=error.reason,
            ) from error

    async def close(self, number: int) -> LocalPullRequest:
        """Close one without merging it.

        Raises:
            ForgeFailed: ``pull_request_not_found``, ``not_open``.
        """
        return await self._forge.close(self._repository, number)


def is_local(project: Project) -> bool:
    """Whether Corral itself keeps the project's pull requests."""
    return project.forge is ForgeKind.LOCAL


def split_body(body: str) -> tuple[str, str | None]:
    """A pull request's body as description and test summary, both without comments.

    Corral marks the summary when it writes the body; a heading that speaks of tests is none. A heading under which
    nothing is left goes with it.
    """
    found = test_summary_in(body)
    if found is None:
        return _COMMENT.sub("", body).strip(), None
    start, end, summary = found
    above = _COMMENT.sub("", body[:start]).strip().split("\n")
    below = _COMMENT.sub("", body[end:]).strip()
    heading = _HEADING.match(above[-1])
    if heading and (not below or below.startswith(_SIGNATURE) or _is_of_rank(below, len(heading[1]))):
        del above[-1]
    description = "\n\n".join(part for part in ("\n".join(above).strip(), below) if part)
    return description, _COMMENT.sub("", summary).strip() or None


def _is_of_rank(text: str, rank: int) -> bool:
    """Whether a text begins with a heading of that rank or above."""
    heading = _HEADING.match(text.partition("\n")[0])
    return heading is not None and len(heading[1]) <= rank
