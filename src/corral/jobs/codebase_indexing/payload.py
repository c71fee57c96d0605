"""What a codebase-indexing job is given and what it gives back."""

from __future__ import annotations

from pydantic import Field

from corral.jobs.payload import BranchName, CommitId, ProjectId, RepoPath, TaskId, UserId, WireModel


class CodebaseIndexing(WireModel):
    """Make a project searchable by meaning and by name."""

    project_id: ProjectId
    user_id: UserId
    task_id: TaskId | None = None
    files: tuple[RepoPath, ...] = ()
    """Only these files, the others staying as they are; empty means all."""
    full_reindex: bool = False
    """Build anew instead of from what changed; with ``files`` only these."""
    branch: BranchName | None = None
    commit_id: CommitId | None = None


class IndexingResult(WireModel):
    """What the index holds now."""

    project_id: str
    commit: str
    files: int
    chunks: int
    languages: dict[str, int]
    """Files per language."""
    skipped: dict[str, int] = Field(default_factory=dict)
    """Files per reason: ``binary``, ``too_large``, ``generated``, ``secret``, ``ignored``, …"""
    secrets_masked: int = 0
    """Secrets that were starred out in the files read this time."""
    reused: int
    """Files taken from the earlier index unchanged."""
    seconds: float
    embedder: str
    cost_usd: float = 0.0
