"""What code generation needs of other parts, as narrow as it needs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from corral.adapters.llm.port import LanguageModel
from corral.jobs.test_execution.report import TestReport


class ProjectLike(Protocol):
    """A registered project."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def default_branch(self) -> str: ...  # noqa: D102
    @property
    def test_command(self) -> str | None: ...  # noqa: D102
    @property
    def setup_command(self) -> str | None: ...  # noqa: D102


class ProjectsLike(Protocol):
    """Where projects are registered."""

    async def get(self, project_id: str, /) -> Any:
        """One project.

        Raises:
            UnknownProject: No such project.
        """
        ...


class FileChangeLike(Protocol):
    """One file of a worktree that differs from its commit."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def lines_added(self) -> int: ...  # noqa: D102
    @property
    def lines_removed(self) -> int: ...  # noqa: D102


class WorkspaceLike(Protocol):
    """One job's worktree."""

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def commit(self) -> str: ...  # noqa: D102

    async def diff(self) -> str:
        """Unified diff from the commit, new files included."""
        ...

    async def changes(self) -> Sequence[FileChangeLike]:
        """What differs from the commit."""
        ...

    async def commit_all(self, *, branch: str, message: str, author: str, trailers: Mapping[str, str]) -> str:
        """Commit everything on ``branch``; the new commit's hash."""
        ...

    async def take_back(self) -> None:
        """Let the branch be what it was before the commit."""
        ...


class WorkspacesLike(Protocol):
    """Gives every job a worktree of its own."""

    def checkout(self, project: Any, rev: str | None = None) -> AbstractAsyncContextManager[Any]:
        """A worktree at ``rev``, removed at exit."""
        ...


class RunsTests(Protocol):
    """Runs tests in the sandbox."""

    async def run(
        self,
        worktree: Path,
        *,
        command: str,
        commit: str,
        setup_command: str | None = None,
        timeout: timedelta,
        project_id: str,
        files: Sequence[str] = (),
    ) -> TestReport:
        """Run ``command`` at the root of ``worktree``, limited to ``files`` where its runner is known."""
        ...


class SearchHitLike(Protocol):
    """One answer of the code index."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def start_line(self) -> int: ...  # noqa: D102
    @property
    def end_line(self) -> int: ...  # noqa: D102
    @property
    def symbol(self) -> str | None: ...  # noqa: D102
    @property
    def score(self) -> float: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102


class CodeSearchLike(Protocol):
    """The code index."""

    async def search(self, project_id: str, query: str, *, limit: int = 10) -> Sequence[SearchHitLike]:
        """The best places, best first.

        Raises:
            SearchFailed: There is no index, or it can't be asked.
        """
        ...

    async def context(self, project_id: str, query: str, *, max_tokens: int) -> Sequence[SearchHitLike]:
        """As many of the best places as fit into a budget of tokens, best first; the last one may be cut short.

        Raises:
            SearchFailed: There is no index, or it can't be asked.
        """
        ...


OpenModel = Callable[[str], Awaitable[LanguageModel]]
"""From a model's name to the model."""
