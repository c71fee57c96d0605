"""What a pr-creation job is given and what it gives back."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from corral.jobs.payload import BranchName, CommitId, ProjectId, TaskId, UserId, WireModel


class PrCreation(WireModel):
    """Push a branch and open a pull request on the project's forge."""

    task_id: TaskId
    user_id: UserId
    project_id: ProjectId
    commit_id: CommitId
    title: Annotated[str, Field(min_length=1, max_length=256)]
    description: Annotated[str, Field(max_length=65_536)]
    source_branch: BranchName
    target_branch: BranchName
    draft: bool = False
    labels: tuple[Annotated[str, Field(min_length=1, max_length=50)], ...] = ()
    reviewers: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = ()
    assignees: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = ()
    template: bool = True
    """Fill the project's pull-request template, when it has one."""
    auto_merge: bool = False
    test_summary: Annotated[str, Field(max_length=20_000)] | None = None
    """Markdown that the pipeline adds: what the tests said."""


class PrState(StrEnum):
    """Where a pull request stands."""

    OPEN = "open"
    DRAFT = "draft"
    CONFLICT = "conflict"
    MERGED = "merged"
    CLOSED = "closed"


class PrResult(WireModel):
    """The pull request that the job opened or found."""

    number: int
    url: str
    head: str
    """Commit at the tip of the source branch."""
    base: str
    """Commit of the target branch that it was compared with."""
    source_branch: str
    target_branch: str
    state: PrState
    created: bool
    """False when an earlier attempt had opened it."""
    files_changed: int
    lines_added: int
    lines_removed: int
    conflicts: tuple[str, ...] = ()
    """Paths that can't be merged, when ``state`` is ``conflict``."""
