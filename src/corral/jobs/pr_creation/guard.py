"""What must hold before a change is published: its size, the paths it touches, and that no secret is in it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Final

from corral.adapters.mirror import FileChange, FileStatus, Mirror
from corral.adapters.secrets import Passage, SecretScanner, added_lines
from corral.errors import GitFailed, Unrecoverable
from corral.projects import Project

#: What runs with the project's own secrets when it is changed.
WORKFLOW_PATHS: Final = (
    ".github/workflows/**",
    ".github/actions/**",
    ".gitlab-ci.yml",
    ".gitlab/ci/**",
    ".gitea/workflows/**",
    ".forgejo/workflows/**",
    ".woodpecker/**",
    ".woodpecker.yml",
    ".circleci/**",
    ".travis.yml",
    "Jenkinsfile",
    "azure-pipelines.yml",
    "bitbucket-pipelines.yml",
)

_MAX_PATCH_BYTES: Final = 64 * 1024 * 1024
_MAX_LINK_BYTES: Final = 4096
_LINK: Final = "120000"
_SUBMODULE: Final = "160000"
_NAMED: Final = 10


def check_size(project: Project, changes: Sequence[FileChange]) -> None:
    """Refuse a change that nobody could review.

    Raises:
        Unrecoverable: ``too_many_files``, ``too_many_lines``.
    """
    if len(changes) > project.max_changed_files:
        raise Unrecoverable(
            f"the change touches {len(changes)} files and project {project.id!r} allows {project.max_changed_files}; "
            "split it, or raise max_changed_files",
            reason="too_many_files",
        )
    lines = sum(change.lines_added + change.lines_removed for change in changes)
    if lines > project.max_changed_lines:
        raise Unrecoverable(
            f"the change has {lines} lines and project {project.id!r} allows {project.max_changed_lines}; "
            "split it, or raise max_changed_lines",
            reason="too_many_lines",
        )


async def check_files(project: Project, changes: Sequence[FileChange], mirror: Mirror) -> None:
    """Refuse files that are too large, links that lead outside, and submodules.

    Raises:
        Unrecoverable: ``file_too_large``, ``unsafe_link``, ``submodule_change``.
    """
    for change in changes:
        if change.mode == _SUBMODULE or change.path == ".gitmodules":
            raise Unrecoverable(f"the change touches a submodule: {change.path}", reason="submodule_change")
    kept = [change for change in changes if change.status is not FileStatus.DELETED]
    sizes = await mirror.blob_sizes([change.blob for change in kept])
    for change in kept:
        size = sizes.get(change.blob, 0)
        if size > project.max_file_bytes:
            raise Unrecoverable(
                f"{change.path} has {size} bytes and project {project.id!r} allows {project.max_file_bytes} in a file",
                reason="file_too_large",
            )
        if change.mode == _LINK:
            target = await mirror.read_blob(change.blob) if size <= _MAX_LINK_BYTES else "/"
            reached = posixpath.normpath(posixpath.join(posixpath.dirname(change.path), target))
            if target.startswith("/") or reached == ".." or reached.startswith("../") or ".git" in reached.split("/"):
                raise Unrecoverable(f"the link {change.path} leads outside the repository", reason="unsafe_link")


def check_paths(project: Project, changes: Sequence[FileChange]) -> None:
    """Refuse a change to what must stay as it is.

    Raises:
        Unrecoverable: ``protected_path``.
    """
    globs = [*project.protected_paths, *(() if project.allow_workflow_changes else WORKFLOW_PATHS)]
    touched = [(change.path, glob) for change in changes for glob in globs if matches(change.path, glob)]
    if touched:
        named = ", ".join(f"{path} ({glob})" for path, glob in touched[:_NAMED])
        raise Unrecoverable(
            f"the change touches protected paths: {named}; change them by hand, or allow it in project {project.id!r} "
            "(allow_workflow_changes, protected_paths)",
            reason="protected_path",
        )


async def check_secrets(
    project: Project, mirror: Mirror, scanner: SecretScanner, *, base: str, head: str, texts: Sequence[Passage]
) -> None:
    """Refuse to publish a secret, in any commit of the range or in the pull request's own words.

    Args:
        project: Knows what is allowed.
        mirror: Where the commits are.
        scanner: Looks.
        base: Published already.
        head: To be published.
        texts: Title and description.

    Raises:
        Unrecoverable: ``secret_found``, with what and where, the secret masked; ``diff_too_large``.
        AdapterError: The scanner failed; nothing may be published.
    """
    try:
        patches = await mirror.patches(base, head, max_bytes=_MAX_PATCH_BYTES)
    except GitFailed as error:
        if error.reason != "output_too_large":
            raise
        raise Unrecoverable(
            f"the change is larger than {_MAX_PATCH_BYTES} bytes as a patch", reason="diff_too_large"
        ) from error
    found = await scanner.scan([*added_lines(patches), *texts], allowed=frozenset(project.allowed_secrets))
    if found:
        named = "; ".join(str(finding) for finding in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise Unrecoverable(
            f"nothing was pushed, since the change holds what looks like a secret: {named}{more}. Remove it from every "
            "commit, or, when it is harmless, add its fingerprint to the project's allowed_secrets",
            reason="secret_found",
        )


def matches(path: str, glob: str) -> bool:
    """Whether a path is what a glob means: ``*`` and ``?`` stay inside a folder, ``**`` does not."""
    pattern = ""
    for part in re.split(r"(\*\*|\*|\?)", glob):
        pattern += {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.fullmatch(pattern, path, re.DOTALL) is not None
