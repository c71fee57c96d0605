"""What a code-generation job is given."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from corral.jobs.payload import BranchName, CommitId, ProjectId, RepoPath, TaskId, UserId, WireModel


class EditFormat(StrEnum):
    """How the model writes its changes down."""

    SEARCH_REPLACE = "search-replace"
    UNIFIED_DIFF = "unified-diff"
    WHOLE_FILE = "whole-file"


class Budget(WireModel):
    """What one job may spend; None means the worker's default."""

    tokens: int | None = Field(default=None, ge=1)
    usd: float | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)


class CodeGeneration(WireModel):
    """Turn a prompt into a commit on the branch ``corral/<taskId>``."""

    task_id: TaskId
    user_id: UserId
    project_id: ProjectId
    prompt: Annotated[str, Field(min_length=1, max_length=100_000)]
    base_branch: BranchName | None = None
    commit_id: CommitId | None = None
    """Start from here; wins over ``base_branch``."""
    files: tuple[RepoPath, ...] = ()
    """Files that the change is about, when the caller knows them."""
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    fallback_models: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    budget: Budget = Budget()
    test_command: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Judges the change; default: the project's own."""
    max_repairs: int = Field(default=2, ge=0, le=10)
    edit_format: EditFormat | None = None
    candidates: int = Field(default=1, ge=1, le=10)
    """Try up to this many times and keep the first whose tests pass, else the best."""
