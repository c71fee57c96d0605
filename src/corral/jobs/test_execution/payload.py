"""What a test-execution job is given."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from corral.jobs.payload import BranchName, CommitId, ProjectId, RepoPath, TaskId, UserId, WireModel


class TestLimits(WireModel):
    """Bounds of one sandboxed run; None takes the worker's default."""

    __test__ = False  # the name begins with Test, but pytest must not collect it

    memory_mb: int | None = Field(default=None, ge=16, le=65_536)
    processes: int | None = Field(default=None, ge=1, le=10_000)
    cpu_seconds: int | None = Field(default=None, ge=1, le=36_000)
    file_size_mb: int | None = Field(default=None, ge=1, le=65_536)
    disk_mb: int | None = Field(default=None, ge=1, le=65_536)
    output_kb: int | None = Field(default=None, ge=1, le=65_536)


class TestExecution(WireModel):
    """Run a project's tests at one commit."""

    __test__ = False

    task_id: TaskId
    user_id: UserId
    project_id: ProjectId
    test_command: Annotated[str, Field(min_length=1, max_length=4096)]
    """A shell command, run inside the sandbox at the root of the worktree."""
    files: tuple[RepoPath, ...] = ()
    """Limit the run to these test files, for a known runner."""
    commit_id: CommitId | None = None
    """What to test; wins over ``branch``. Neither: the project's default branch."""
    branch: BranchName | None = None
    patch: Annotated[str, Field(max_length=5_000_000)] | None = None
    """A unified diff that is applied to the worktree first."""
    setup_command: Annotated[str, Field(max_length=4096)] | None = None
    """Installs dependencies, before the tests."""
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(default_factory=dict)
    """Variables that the tests see."""
    timeout_ms: int | None = Field(default=None, ge=1, le=3_600_000, alias="timeout")
    """Longest run, in milliseconds (``timeout`` on the wire); default 5 minutes."""
    limits: TestLimits = TestLimits()
    network: Literal["none", "setup"] = "none"
    """``setup`` lets the set-up phase reach the allow-listed package registries."""
    reruns: int = Field(default=0, ge=0, le=5)
    """How often failed cases are run again; those that then pass are reported as flaky."""
    compare_to: CommitId | None = None
    """The base commit (or branch) that ``newlyFailing`` and ``newlyPassing`` refer to; its own result is cached."""
