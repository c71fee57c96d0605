"""Workspaces: for each job a worktree of its own, cut from the project's bare mirror and gone afterwards.

The worktree holds no ``.git``: whoever works in it, an agent or a test in a sandbox, sees files and nothing else,
neither the mirror nor a remote nor a token. git is told where mirror, index and worktree are by every command.

Layout, under ``{data_dir}/projects/{project}/worktrees``::

    {id}.lock       held by the worker while the job runs; free means that the worker is gone
    {id}/index      git's index
    {id}/tree/      the files
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from corral.adapters.cleanup import see_through
from corral.adapters.filelock import try_lock
from corral.adapters.git import Git, GitRemote, is_branch_name, transport_options
from corral.adapters.mirror import (
    FileChange,
    FileStatus,
    Mirror,
    Signing,
    file_changes,
    is_full_hash,
    with_trailers,
)
from corral.adapters.sandbox.removal import remove_tree
from corral.commits import CommitStore
from corral.errors import GitFailed, Unrecoverable
from corral.projects import Project

__all__ = ["FileChange", "FileStatus", "RemoteOf", "RepositoryInfo", "Workspace", "Workspaces", "anonymous_remote"]

RemoteOf = Callable[[Project], Awaitable[GitRemote]]
"""Gives a project's address together with the credential for it."""

_LOG: Final = logging.getLogger(__name__)
_REAP_EVERY_S: Final = 60.0
_MAX_DIFF_BYTES: Final = 32 * 1024 * 1024


async def anonymous_remote(project: Project) -> GitRemote:
    """The project's address without any credential."""
    return GitRemote(project.repository)


class RepositoryInfo:
    """What a repository tells about itself before it is registered.

    Attributes:
        default_branch: What its HEAD names; None for an empty repository.
        branches: Names of all branches.
    """

    def __init__(self, default_branch: str | None, branches: tuple[str, ...]) -> None:
        self.default_branch = default_branch
        self.branches = branches


class Workspace:
    """The files of one commit, for one job.

    Attributes:
        path: The worktree's root.
        commit: Full hash of what was checked out.
        project_id: Whose it is.
    """

    def __init__(
        self, *, git: Git, mirror: Mirror, commits: CommitStore, project_id: str, commit: str, folder: Path
    ) -> None:
        self._git = git
        self._mirror = mirror
        self._commits = commits
        self._index = folder / "index"
        self.project_id = project_id
        self.commit = commit
        self.path = folder / "tree"
        self._made: _Made | None = None

    async def apply_patch(self, patch: str) -> None:
        """Apply a unified diff to the files, all of it or nothing.

        Raises:
            Unrecoverable: ``patch_does_not_apply``.
        """
        if not patch.strip():
            return
        try:
            await self._git.run(
                "apply",
                "--whitespace=nowarn",
                "-",
                git_dir=self._mirror.path,
                work_tree=self.path,
                index=self._index,
                stdin=(patch if patch.endswith("\n") else patch + "\n").encode(),
            )
        except GitFailed as error:
            if error.reason != "failed":
                raise
            raise Unrecoverable(
                f"the patch does not apply to {self.commit}: {error}", reason="patch_does_not_apply"
            ) from error

    async def diff(self) -> str:
        """All changes against :attr:`commit` as a unified diff with binary files in it; new files included."""
        await self._stage()
        printed = await self._git.run(
            "diff-index",
            "--cached",
            "--patch",
            "--binary",
            "--full-index",
            "--no-renames",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            self.commit,
            "--",
            git_dir=self._mirror.path,
            work_tree=self.path,
            index=self._index,
            max_output_bytes=_MAX_DIFF_BYTES,
        )
        return printed.text

    async def changes(self) -> list[FileChange]:
        """The files that differ from :attr:`commit`, by path."""
        await self._stage()
        return await file_changes(
            self._git, [self.commit], git_dir=self._mirror.path, index=self._index, work_tree=self.path
        )

    async def commit_all(self, *, branch: str, message: str, author: str, trailers: Mapping[str, str]) -> str:
        """Commit everything that changed.

        Args:
            branch: What the commit is for, without ``refs/heads/``.
            message: Subject and body.
            author: ``Name <mail>``, who also is the committer.
            trailers: Lines ``Name: value`` for the end of the message.

        Returns:
            The commit's full hash: on ``refs/heads/{branch}`` of this worker's mirror, and in the commit store, so that
            any worker can have it.

        Raises:
            Unrecoverable: ``nothing_changed``, ``invalid_branch``, ``invalid_trailer``, ``invalid_identity``,
                ``commit_too_large``.
        """
        if not is_branch_name(branch):
            raise Unrecoverable(f"git does not take {branch!r} as a branch's name", reason="invalid_branch")
        await self._stage()
        written = await self._git.run("write-tree", git_dir=self._mirror.path, work_tree=self.path, index=self._index)
        tree = written.text.strip()
        if not await file_changes(self._git, [self.commit, tree], git_dir=self._mirror.path):
            raise Unrecoverable("there is nothing to commit: no file changed", reason="nothing_changed")
        made = await self._mirror.commit_tree(
            tree, [self.commit], with_trailers(message, trailers), author=author, committer=author
        )
        bundle = await self._mirror.bundle(made, max_bytes=self._commits.max_bundle_bytes)
        stored = await self._commits.tip(self.project_id, branch)
        named = await self._mirror.resolve(f"refs/heads/{branch}")
        self._made = _Made(branch=branch, commit=made, stored_before=stored, named_before=named)
        await self._commits.put(self.project_id, made, bundle, branch=branch)
        await self._mirror.set_branch(branch, made)
        return made

    async def take_back(self) -> None:
        """Let the branch be what it was before :meth:`commit_all`, unless it has moved on since.

        For a job that ends without a result; works after the workspace is gone. What can't be taken back now is told to
        the operator.
        """
        made, self._made = self._made, None
        if made is None:
            return
        try:
            await self._commits.withdraw(self.project_id, made.commit, branch=made.branch, before=made.stored_before)
        except Exception:  # noqa: BLE001 - whichever client's; the other half can be done all the same
            _LOG.warning("the commit %s stays in Redis until it expires", made.commit, exc_info=True)
        try:
            await self._mirror.restore_branch(made.branch, made.commit, before=made.named_before)
        except GitFailed as error:
            if error.reason != "branch_moved":
                _LOG.warning("the branch %s stays in this worker's mirror: %s", made.branch, error)

    async def _stage(self) -> None:
        """Bring the index up to date with the files.

        A ``.git`` below the root would make git look into a repository of somebody else's making, and run what its
        configuration says; none was checked out, so every one is removed.
        """
        await asyncio.to_thread(_remove_repositories, self.path)
        await self._git.run(
            "add", "--all", "--", ".", git_dir=self._mirror.path, work_tree=self.path, index=self._index
        )


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A commit, and what its branch was before."""

    branch: str
    commit: str
    stored_before: str | None
    named_before: str | None


async def _kept_here(mirror: Mirror, rev: str) -> str | None:
    """The commit of a tag, or of what this worker knows besides the forge's branches."""
    for name in (f"refs/tags/{rev}", f"refs/heads/{rev}", rev):
        if (found := await mirror.resolve(name)) is not None:
            return found
    return None


class Workspaces:
    """Gives jobs their worktrees.

    Args:
        data_dir: Where mirrors and worktrees are kept; a cache.
        commits: Commits that only Corral has.
        remote_of: How a project's repository is reached; the forges know (``Forges.remote``). Default: without a
            credential.
        git: Runs git.
        signing: Signs the commits made here.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        commits: CommitStore,
        remote_of: RemoteOf = anonymous_remote,
        git: Git | None = None,
        signing: Signing | None = None,
    ) -> None:
        self._root = data_dir.absolute() / "projects"
        self._commits = commits
        self._remote_of = remote_of
        self._git = git or Git()
        self._signing = signing
        self._reaped: dict[str, float] = {}

    def mirror(self, project: Project) -> Mirror:
        """The project's mirror on this worker's disk."""
        return Mirror(self._git, self._root / project.id, signing=self._signing)

    async def remote(self, project: Project) -> GitRemote:
        """The project's repository, with the credential for it."""
        return await self._remote_of(project)

    async def inspect(self, repository: str) -> RepositoryInfo:
        """Ask a repository for its branches, without a credential and without keeping anything.

        Args:
            repository: ``https://…`` or an absolute path.

        Raises:
            GitFailed: ``not_a_repository``, ``repository_not_found``, ``authentication_failed``, ``unreachable``, …
        """
        remote = GitRemote(repository)
        printed = await self._git.run(
            "ls-remote",
            "--symref",
            *transport_options(remote, "upload-pack"),
            "--",
            repository,
            "HEAD",
            "refs/heads/*",
            remote=remote,
            timeout=timedelta(minutes=1),
        )
        default: str | None = None
        branches: list[str] = []
        for line in printed.text.splitlines():
            value, _, name = line.partition("\t")
            if value.startswith("ref: refs/heads/") and name == "HEAD":
                default = value.removeprefix("ref: refs/heads/")
            elif name.startswith("refs/heads/"):
                branches.append(name.removeprefix("refs/heads/"))
        return RepositoryInfo(default if default in branches else None, tuple(branches))

    async def resolve(self, project: Project, rev: str | None = None) -> str:
        """Full hash of what a revision names, present in the mirror afterwards.

        Args:
            project: Whose.
            rev: A branch of the forge, a commit's hash (also of one that another worker generated), a branch that a job
                generated, or a tag, in this order. None: the project's default branch.

        Raises:
            Unrecoverable: ``commit_not_found``, ``branch_not_found`` (when ``rev`` is None).
            GitFailed: The repository can't be fetched.
        """
        asked_at = time.time()
        mirror = self.mirror(project)
        if rev is not None and is_full_hash(rev):
            if await mirror.resolve(rev) is not None:
                return rev
            await self._import(project, mirror, rev, asked_at)
            if await mirror.resolve(rev) is not None:
                return rev
        else:
            await mirror.update(await self.remote(project), asked_at=asked_at)
            branch = project.default_branch if rev is None else rev
            if (found := await mirror.branch(branch)) is not None:
                return found
            if rev is None:
                raise Unrecoverable(
                    f"{project.repository} has no branch {branch!r}; register the project with its default branch",
                    reason="branch_not_found",
                )
            stored = await self._commits.tip(project.id, rev)
            if stored is not None:
                return await self.resolve(project, stored)
            if (found := await _kept_here(mirror, rev)) is not None:
                return found
        raise Unrecoverable(
            f"project {project.id!r} has no commit, branch or tag {rev!r} (a generated commit is kept for some days)",
            reason="commit_not_found",
        )

    async def knows(self, project: Project, rev: str) -> bool:
        """Whether ``resolve`` would find a revision, by what was fetched last: nothing is fetched for it."""
        mirror = self.mirror(project)
        return (
            await mirror.branch(rev) is not None
            or await self._commits.tip(project.id, rev) is not None
            or await _kept_here(mirror, rev) is not None
        )

    async def _import(self, project: Project, mirror: Mirror, commit: str, asked_at: float) -> None:
        """Bring a commit into the mirror from wherever it is."""
        bundle = await self._commits.get(project.id, commit)
        await mirror.update(await self.remote(project), asked_at=asked_at)
        if bundle is not None and await mirror.resolve(commit) is None:
            await mirror.unbundle(bundle)

    @contextlib.asynccontextmanager
    async def checkout(self, project: Project, rev: str | None = None) -> AsyncIterator[Workspace]:
        """A worktree of its own, removed at the end of the block however it ends.

        Args:
            project: Whose.
            rev: As in :meth:`resolve`.

        Raises:
            Unrecoverable: ``commit_not_found``, ``branch_not_found``.
            GitFailed: The repository can't be fetched, or no disk is left.
        """
        commit = await self.resolve(project, rev)
        worktrees = self._root / project.id / "worktrees"
        worktrees.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._reap(project.id, worktrees)
        name = uuid.uuid4().hex
        lock = try_lock(worktrees / f"{name}.lock")
        if lock is None:  # pragma: no cover  a fresh name is nobody's
            raise GitFailed(f"{name} is taken", service="git", operation="checkout", retryable=True, reason="locked")
        folder = worktrees / name
        try:
            mirror = self.mirror(project)
            workspace = Workspace(
                git=self._git,
                mirror=mirror,
                commits=self._commits,
                project_id=project.id,
                commit=commit,
                folder=folder,
            )
            workspace.path.mkdir(parents=True)
            await self._git.run(
                "read-tree",
                "-u",
                "--reset",
                "--no-recurse-submodules",
                commit,
                git_dir=mirror.path,
                work_tree=workspace.path,
                index=folder / "index",
            )
            yield workspace
        finally:
            await see_through(asyncio.to_thread(_remove_worktree, worktrees, name, lock))

    async def _reap(self, project_id: str, worktrees: Path) -> None:
        """Remove what killed workers left, now and then."""
        now = time.monotonic()
        if now - self._reaped.get(project_id, -_REAP_EVERY_S) < _REAP_EVERY_S:
            return
        self._reaped[project_id] = now
        await asyncio.to_thread(reap, worktrees)


def reap(worktrees: Path) -> list[str]:
    """Remove the worktrees whose worker is gone.

    Args:
        worktrees: A project's folder of worktrees.

    Returns:
        Names of those removed.
    """
    removed = []
    names = {entry.name.removesuffix(".lock") for entry in os.scandir(worktrees)}
    for name in sorted(names):
        lock = try_lock(worktrees / f"{name}.lock")
        if lock is not None:
            _remove_worktree(worktrees, name, lock)
            removed.append(name)
    return removed


def _remove_worktree(worktrees: Path, name: str, lock: int) -> None:
    try:
        remove_tree(worktrees / name)
        (worktrees / f"{name}.lock").unlink(missing_ok=True)
    except OSError:
        # The job has its result; with its lock free and still there, the folder is the reaper's, which tries again.
        _LOG.warning("the worktree %s can't be removed yet", worktrees / name, exc_info=True)
    finally:
        os.close(lock)


def _remove_repositories(root: Path) -> None:
    """Remove every ``.git``, folder, file or link, without following a link."""
    pending = [str(root)]
    while pending:
        folder = pending.pop()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                if entry.name == ".git":
                    if is_folder:
                        remove_tree(Path(entry.path))
                    else:
                        os.unlink(entry.path)  # noqa: PTH108  as scandir gave it
                elif is_folder:
                    pending.append(entry.path)
