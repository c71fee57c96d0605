"""The local forge: pull requests in a git repository on this disk, without any account.

Everything is in the repository itself, as refs that ordinary git keeps::

    refs/pull/{N}/head   the source branch's tip, as on GitHub
    refs/pull/{N}/meta   a blob: JSON of :class:`LocalPullRequest`'s fields

A number is taken by creating both refs in one transaction that requires them to be new, so that a crash leaves a whole
pull request or none, and two processes never share one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from corral.adapters.filelock import locked
from corral.adapters.forge.port import (
    Extras,
    ForgeLimits,
    NewPullRequest,
    PullRequest,
    PullRequestState,
    Refusal,
    Refused,
    RepositoryFacts,
    check_limits,
)
from corral.adapters.git import Git, GitRemote, is_branch_name
from corral.adapters.mirror import FileChange, Merged, file_changes, parse_identity
from corral.errors import GitFailed

_ZEROS: Final = "0" * 40
_REFUSED: Final = Refused("local")


class LocalPullRequest(BaseModel):
    """A pull request of the local forge, with what only it can tell."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int
    title: str
    body: str
    state: PullRequestState = PullRequestState.OPEN
    draft: bool = False
    source_branch: str
    target_branch: str
    head: str
    """Tip of the source branch; once merged or closed, what it was then."""
    base: str
    """Tip of the target branch when it was opened; once merged, just before."""
    labels: tuple[str, ...] = ()
    reviewers: tuple[str, ...] = ()
    assignees: tuple[str, ...] = ()
    auto_merge: bool = False
    created_at: datetime
    updated_at: datetime
    merged_at: datetime | None = None
    merge_commit: str | None = None
    conflicts: tuple[str, ...] = ()
    """Paths that can't be merged just now; filled by :meth:`LocalForge.get` for an open one."""


class LocalForge:
    """Opens, shows and merges pull requests in repositories on this disk.

    Args:
        git: Runs git.
        committer: ``Name <mail>`` of merge commits.
    """

    name = "local"
    limits = ForgeLimits(title=256, body=65_536)

    def __init__(self, *, git: Git | None = None, committer: str = "Corral <corral@localhost>") -> None:
        self._git = git or Git()
        parse_identity(committer)
        self._committer = committer

    # --- the port

    async def remote(self, repository: str) -> GitRemote:
        """The path itself; needs no credential."""
        return GitRemote(repository)

    async def describe(self, repository: str) -> RepositoryFacts:
        """Facts of a repository on this disk."""
        git_dir = await self._git_dir(repository)
        found = await self._git.run("symbolic-ref", "--quiet", "--short", "HEAD", git_dir=git_dir, ok=(0, 1))
        return RepositoryFacts(default_branch=found.text.strip() or "main", archived=False, can_push=True)

    async def find(self, repository: str, *, source_branch: str, target_branch: str) -> list[PullRequest]:
        """Pull requests between two branches, newest first."""
        return [
            _shown(repository, kept)
            for kept in await self._all(await self._git_dir(repository))
            if kept.source_branch == source_branch and kept.target_branch == target_branch
        ]

    async def open(self, repository: str, request: NewPullRequest) -> PullRequest:
        """Open a pull request; see the port."""
        check_limits(_REFUSED, "open", self.limits, title=request.title, body=request.body)
        git_dir = await self._git_dir(repository)
        async with locked(git_dir / "corral-forge.lock", timeout=timedelta(minutes=1)):
            kept = await self._all(git_dir)
            for other in kept:
                if (other.source_branch, other.target_branch, other.state) == (
                    request.source_branch,
                    request.target_branch,
                    PullRequestState.OPEN,
                ):
                    raise _REFUSED(Refusal.ALREADY_EXISTS, "open", f"#{other.number} is open for these branches")
            head = await self._tip(git_dir, request.source_branch)
            base = await self._tip(git_dir, request.target_branch)
            if base is None:
                raise _REFUSED(Refusal.TARGET_MISSING, "open", f"there is no branch {request.target_branch!r}")
            if head is None:
                raise _REFUSED(Refusal.SOURCE_MISSING, "open", f"there is no branch {request.source_branch!r}")
            if await self._is_ancestor(git_dir, head, base):
                raise _REFUSED(
                    Refusal.NOTHING_TO_MERGE,
                    "open",
                    f"{request.source_branch!r} has no commit that {request.target_branch!r} lacks",
                )
            now = datetime.now(UTC)
            opened = LocalPullRequest(
                number=1 + max((other.number for other in kept), default=0),
                title=request.title,
                body=request.body,
                draft=request.draft,
                source_branch=request.source_branch,
                target_branch=request.target_branch,
                head=head,
                base=base,
                created_at=now,
                updated_at=now,
            )
            await self._write(git_dir, opened, new=True)
        return _shown(repository, opened)

    async def edit(self, repository: str, number: int, *, title: str, body: str) -> PullRequest:
        """Bring title and description up to date; see the port."""
        check_limits(_REFUSED, "edit", self.limits, title=title, body=body)
        return _shown(repository, await self._change(repository, number, title=title, body=body))

    async def decorate(self, repository: str, pull_request: PullRequest, extras: Extras) -> PullRequest:
        """Add labels, reviewers and assignees; anybody's name is taken, as a disk knows no users.

        There are no checks to wait for, so auto-merge merges at once.
        """
        changed = await self._change(
            repository,
            pull_request.number,
            labels=_union(pull_request.labels, extras.labels),
            reviewers=_union(pull_request.reviewers, extras.reviewers),
            assignees=_union(pull_request.assignees, extras.assignees),
        )
        if extras.auto_merge:
            changed = await self.merge(repository, pull_request.number)
        return _shown(repository, changed)

    async def aclose(self) -> None:
        """Nothing is held."""

    # --- what the CLI and the dashboard show

    async def list_pull_requests(
        self, repository: str | Path, *, state: PullRequestState | None = None
    ) -> list[LocalPullRequest]:
        """Pull requests of a repository, newest first.

        Args:
            repository: Path of a git repository.
            state: Only those; None: all.

        Raises:
            ForgeFailed: ``repository_not_found``.
        """
        kept = await self._all(await self._git_dir(str(repository)))
        return [one for one in kept if state is None or one.state is state]

    async def get(self, repository: str, number: int) -> PullRequest:
        """One pull request; see the port."""
        return _shown(repository, await self.show(repository, number))

    async def show(self, repository: str | Path, number: int) -> LocalPullRequest:
        """One pull request with its conflicts of the moment.

        Raises:
            ForgeFailed: ``pull_request_not_found``, ``repository_not_found``.
        """
        git_dir = await self._git_dir(str(repository))
        kept = await self._one(git_dir, number)
        if kept.state is not PullRequestState.OPEN:
            return kept
        target = await self._tip(git_dir, kept.target_branch)
        if target is None:
            return kept
        return kept.model_copy(update={"conflicts": (await self._merged(git_dir, target, kept.head)).conflicts})

    async def diff(self, repository: str | Path, number: int, *, max_bytes: int = 4 * 1024 * 1024) -> str:
        """What a pull request changes, as a unified diff from where its branch left the target.

        Raises:
            ForgeFailed: ``pull_request_not_found``, ``repository_not_found``.
            GitFailed: ``output_too_large``.
        """
        git_dir = await self._git_dir(str(repository))
        kept = await self._one(git_dir, number)
        base = await self._fork_point(git_dir, kept)
        printed = await self._git.run(
            "diff-tree",
            "-r",
            "--patch",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            base,
            kept.head,
            git_dir=git_dir,
            max_output_bytes=max_bytes,
        )
        return printed.text

    async def changes(self, repository: str | Path, number: int) -> list[FileChange]:
        """The files that a pull request changes.

        Raises:
            ForgeFailed: ``pull_request_not_found``, ``repository_not_found``.
        """
        git_dir = await self._git_dir(str(repository))
        kept = await self._one(git_dir, number)
        return await file_changes(self._git, [await self._fork_point(git_dir, kept), kept.head], git_dir=git_dir)

    async def merge(self, repository: str | Path, number: int) -> LocalPullRequest:
        """Merge a pull request into its target branch, with a merge commit.

        Effects:
            Moves the target branch, if it is still where the merge was made from.

        Raises:
            ForgeFailed: ``pull_request_not_found``, ``not_open`` (also for a draft), ``merge_conflict`` with the files
                named, ``target_missing``, ``branch_protected`` when the target is checked out in a worktree.
        """
        git_dir = await self._git_dir(str(repository))
        async with locked(git_dir / "corral-forge.lock", timeout=timedelta(minutes=1)):
            kept = await self._one(git_dir, number)
            if kept.state is not PullRequestState.OPEN or kept.draft:
                stands = "a draft" if kept.state is PullRequestState.OPEN else kept.state.value
                raise _REFUSED(Refusal.NOT_OPEN, "merge", f"#{number} is {stands}")
            target = await self._tip(git_dir, kept.target_branch)
            if target is None:
                raise _REFUSED(Refusal.TARGET_MISSING, "merge", f"there is no branch {kept.target_branch!r}")
            await self._refuse_checked_out(git_dir, kept.target_branch)
            merged = await self._merged(git_dir, target, kept.head)
            if merged.conflicts:
                raise _REFUSED(Refusal.MERGE_CONFLICT, "merge", f"these files conflict: {', '.join(merged.conflicts)}")
            made = await self._merge_commit(git_dir, kept, merged.tree, target)
            now = datetime.now(UTC)
            done = kept.model_copy(
                update={
                    "state": PullRequestState.MERGED,
                    "base": target,
                    "merge_commit": made,
                    "merged_at": now,
                    "updated_at": now,
                }
            )
            blob = await self._blob(git_dir, done)
            await self._transaction(
                git_dir,
                f"update refs/heads/{kept.target_branch} {made} {target}\nupdate refs/pull/{number}/meta {blob}\n",
            )
        return done

    async def close(self, repository: str | Path, number: int) -> LocalPullRequest:
        """Close a pull request without merging it.

        Raises:
            ForgeFailed: ``pull_request_not_found``, ``not_open``.
        """
        return await self._change(str(repository), number, state=PullRequestState.CLOSED)

    # --- inside

    async def _git_dir(self, repository: str) -> Path:
        path = Path(repository)
        for candidate in (path, path / ".git"):
            if (candidate / "HEAD").is_file() and (candidate / "objects").is_dir():
                return candidate
        raise _REFUSED(Refusal.REPOSITORY_NOT_FOUND, "look up", f"expected a git repository at {repository!r}")

    async def _tip(self, git_dir: Path, branch: str) -> str | None:
        if not is_branch_name(branch):
            return None
        found = await self._git.run(
            "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}", git_dir=git_dir, ok=(0, 1, 128)
        )
        return found.text.strip() if found.code == 0 else None

    async def _is_ancestor(self, git_dir: Path, ancestor: str, descendant: str) -> bool:
        found = await self._git.run("merge-base", "--is-ancestor", ancestor, descendant, git_dir=git_dir, ok=(0, 1))
        return found.code == 0

    async def _fork_point(self, git_dir: Path, kept: LocalPullRequest) -> str:
        base = kept.base
        if kept.state is PullRequestState.OPEN:
            base = await self._tip(git_dir, kept.target_branch) or kept.base
        found = await self._git.run("merge-base", base, kept.head, git_dir=git_dir, ok=(0, 1))
        return found.text.split()[0] if found.code == 0 else base

    async def _merged(self, git_dir: Path, ours: str, theirs: str) -> Merged:
        printed = await self._git.run(
            "merge-tree",
            "--write-tree",
            "-z",
            "--name-only",
            "--no-messages",
            "--allow-unrelated-histories",
            ours,
            theirs,
            git_dir=git_dir,
            ok=(0, 1),
        )
        tree, *conflicts = [part for part in printed.text.split("\0") if part.strip()]
        return Merged(tree, tuple(dict.fromkeys(conflicts)))

    async def _merge_commit(self, git_dir: Path, kept: LocalPullRequest, tree: str, target: str) -> str:
        name, mail = parse_identity(self._committer)
        env = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in
               (("NAME", name), ("EMAIL", mail))}  # fmt: skip
        message = f"Merge pull request #{kept.number} from {kept.source_branch}\n\n{kept.title}\n"
        made = await self._git.run(
            "commit-tree", "-p", target, "-p", kept.head, "-F", "-", tree,
            git_dir=git_dir, stdin=message.encode(), env=env,
        )  # fmt: skip
        return made.text.strip()

    async def _refuse_checked_out(self, git_dir: Path, branch: str) -> None:
        bare = await self._git.run("config", "--get", "core.bare", git_dir=git_dir, ok=(0, 1))
        head = await self._git.run("symbolic-ref", "--quiet", "HEAD", git_dir=git_dir, ok=(0, 1))
        if bare.text.strip() != "true" and head.text.strip() == f"refs/heads/{branch}":
            raise _REFUSED(
                Refusal.BRANCH_PROTECTED,
                "merge",
                f"{branch!r} is checked out in {git_dir.parent}: merge it there, or register a bare repository",
            )

    async def _all(self, git_dir: Path) -> list[LocalPullRequest]:
        """All pull requests, newest first; open ones with the branch's tip of the moment."""
        listed = await self._git.run(
            "for-each-ref", "--format=%(refname) %(objectname)", "refs/pull/", "refs/heads/", git_dir=git_dir
        )
        rows = dict(row.split(" ", 1) for row in listed.text.splitlines())
        metas = {name: blob for name, blob in rows.items() if name.startswith("refs/pull/") and name.endswith("/meta")}
        contents = await self._blobs(git_dir, list(metas.values()))
        found = []
        for name, blob in metas.items():
            try:
                kept = LocalPullRequest.model_validate_json(contents[blob])
            except ValidationError as error:
                raise _REFUSED(Refusal.INVALID_ANSWER, "read", f"{name} in {git_dir} is damaged: {error}") from error
            head = rows.get(f"refs/heads/{kept.source_branch}")
            if kept.state is PullRequestState.OPEN and head is not None and head != kept.head:
                kept = kept.model_copy(update={"head": head})
            found.append(kept)
        return sorted(found, key=lambda kept: -kept.number)

    async def _blobs(self, git_dir: Path, blobs: list[str]) -> dict[str, bytes]:
        if not blobs:
            return {}
        printed = await self._git.run(
            "cat-file", "--batch", git_dir=git_dir, stdin="".join(f"{blob}\n" for blob in blobs).encode()
        )
        contents: dict[str, bytes] = {}
        rest = printed.stdout
        while rest:
            header, _, rest = rest.partition(b"\n")
            blob, _, size = header.decode().split(" ")
            contents[blob], rest = rest[: int(size)], rest[int(size) + 1 :]
        return contents

    async def _one(self, git_dir: Path, number: int) -> LocalPullRequest:
        for kept in await self._all(git_dir):
            if kept.number == number:
                return kept
        raise _REFUSED(Refusal.PULL_REQUEST_NOT_FOUND, "look up", f"there is no pull request #{number} in {git_dir}")

    async def _change(self, repository: str, number: int, **fields: object) -> LocalPullRequest:
        git_dir = await self._git_dir(repository)
        async with locked(git_dir / "corral-forge.lock", timeout=timedelta(minutes=1)):
            kept = await self._one(git_dir, number)
            if kept.state is not PullRequestState.OPEN:
                raise _REFUSED(Refusal.NOT_OPEN, "edit", f"#{number} is {kept.state.value}")
            if all(getattr(kept, name) == value for name, value in fields.items()):
                return kept
            changed = kept.model_copy(update={**fields, "updated_at": datetime.now(UTC)})
            await self._write(git_dir, changed, new=False)
        return changed

    async def _blob(self, git_dir: Path, kept: LocalPullRequest) -> str:
        content = json.dumps(kept.model_dump(mode="json", exclude={"conflicts"}), indent=1, ensure_ascii=False)
        made = await self._git.run("hash-object", "-w", "--stdin", git_dir=git_dir, stdin=content.encode())
        return made.text.strip()

    async def _write(self, git_dir: Path, kept: LocalPullRequest, *, new: bool) -> None:
        blob = await self._blob(git_dir, kept)
        old = f" {_ZEROS}" if new else ""
        await self._transaction(
            git_dir,
            f"update refs/pull/{kept.number}/head {kept.head}{old}\nupdate refs/pull/{kept.number}/meta {blob}{old}\n",
        )

    async def _transaction(self, git_dir: Path, commands: str) -> None:
        try:
            await self._git.run(
                "update-ref", "--stdin", git_dir=git_dir, stdin=f"start\n{commands}prepare\ncommit\n".encode()
            )
        except GitFailed as error:
            raise GitFailed(
                f"the branches moved meanwhile: {error}",
                service="git",
                operation="update-ref",
                retryable=True,
                reason="branch_moved",
            ) from error


def _shown(repository: str, kept: LocalPullRequest) -> PullRequest:
    return PullRequest(
        number=kept.number,
        url=f"{repository}#{kept.number}",
        title=kept.title,
        body=kept.body,
        state=kept.state,
        draft=kept.draft,
        source_branch=kept.source_branch,
        target_branch=kept.target_branch,
        head=kept.head,
        labels=kept.labels,
        reviewers=kept.reviewers,
        assignees=kept.assignees,
        auto_merge=kept.auto_merge,
    )


def _union(have: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*have, *more)))
