"""The four job types. Their values are also their queues' names."""

from __future__ import annotations

from enum import StrEnum


class JobType(StrEnum):
    """One of the four kinds of work that Corral brings along."""

    CODE_GENERATION = "code-generation"
    """Turn a prompt into a commit, with a language model."""
    TEST_EXECUTION = "test-execution"
    """Run a project's tests at one commit, in a sandbox."""
    PR_CREATION = "pr-creation"
    """Push a branch and open a pull request."""
    CODEBASE_INDEXING = "codebase-indexing"
    """Make a project searchable by meaning and by name."""
