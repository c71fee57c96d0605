"""What the payloads and results of all job types have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel


def _not_a_lock(value: str) -> str:
    if value.endswith(".lock"):
        raise ValueError("git keeps names that end in '.lock' for itself")
    return value


TaskId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"),
    AfterValidator(_not_a_lock),
]
"""The platform's id of a task. It becomes a part of a branch name, so it holds what git allows there."""
UserId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f]+$")]
"""The platform's id of a user."""
ProjectId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Id of a registered project; it becomes a folder's name."""
BranchName = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./+@-]*$")
]
"""A branch, without ``refs/heads/``. ``git check-ref-format`` has the last word."""
CommitId = Annotated[str, StringConstraints(min_length=4, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$")]
"""A commit's hash (or a ref that names one); resolved in the project's mirror."""
RepoPath = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00]+$")]
"""A path inside the repository, with forward slashes. A leading ``./`` is allowed."""


class WireModel(BaseModel):
    """camelCase in Redis, snake_case in Python, either accepted; unknown fields are errors, as they are typos."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )
