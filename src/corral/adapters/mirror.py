"""A project's bare mirror: what a worker knows of the repository, and where new commits are made and pushed from.

Layout, under ``{data_dir}/projects/{project}``::

    mirror.git/refs/remotes/origin/*   the forge's branches, as last fetched
    mirror.git/refs/tags/*             its tags
    mirror.git/refs/heads/*            branches made here, not on the forge yet
    mirror.lock                        held, also by git itself, while refs are written

The folder is a cache: it can be deleted while no job runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from corral.adapters.cleanup import see_through
from corral.adapters.filelock import locked
from corral.adapters.git import Git, GitOutput, GitRemote, check_revision, failure, masked, transport_options
from corral.errors import GitFailed, Unrecoverable

#: ``git hash-object -t tree /dev/null``: the tree without files, known to every repository.
EMPTY_TREE: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

_FULL_HASH: Final = re.compile(r"^[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_IDENTITY: Final = re.compile(r"^([^<>\x00-\x1f]+?)\s*<([^<>\x00-\x20]+)>\Z")
_TRAILER: Final = re.compile(r"^[A-Za-z][A-Za-z0-9-]*\Z")
_GITLINK: Final = "160000"
_PACKS_BEFORE_REPACK: Final = 40
#: Text is checked out in the encoding that git stores. With another one, a file that can't be converted, or an encoding
#: that git doesn't know, makes every ``git add`` fail, and with it a commit whose model has been paid.
_ATTRIBUTES: Final = "* !working-tree-encoding\n"
#: Longer than a generated commit is kept in Redis, after which nobody can name it any more.
_KEEP_GENERATED: Final = timedelta(days=30)


class FileStatus(StrEnum):
    """What happened to a file."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    TYPE_CHANGED = "type_changed"
    """A file became a link, or the other way round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One changed file; a renamed one is a deleted and an added one."""

    #: Inside the repository, with forward slashes.
    path: str
    status: FileStatus
    #: 0 for a binary file.
    lines_added: int
    lines_removed: int
    binary: bool = False
    #: git's octal mode afterwards: ``100644``, ``100755``, ``120000`` for a link, ``160000`` for a submodule.
    mode: str = "100644"
    #: Hash of the content afterwards, all zeros when deleted.
    blob: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitInfo:
    """One commit."""

    hash: str
    tree: str
    parents: tuple[str, ...]
    #: ``Name <mail>`` and git's raw date, ``1700000000 +0100``.
    author: str
    author_date: str
    committer: str
    committer_date: str
    message: str


@dataclass(frozen=True, slots=True)
class Merged:
    """What merging two commits gives.

    Attributes:
        tree: The merged tree; with conflict markers in it when there are conflicts.
        conflicts: Paths that could not be merged.
    """

    tree: str
    conflicts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signing:
    """Signs commits with an SSH key.

    Attributes:
        key: Path of the private key's file; it must have no pass phrase, or an agent must hold it.
    """

    key: Path

    @property
    def config(self) -> dict[str, str]:
        """The configuration that makes git sign with it."""
        return {"gpg.format": "ssh", "user.signingKey": str(self.key)}


def parse_identity(identity: str) -> tuple[str, str]:
    """Name and mail of ``Name <mail>``.

    Raises:
        Unrecoverable: ``invalid_identity``.
    """
    found = _IDENTITY.match(identity)
    if found is None:
        raise Unrecoverable(f"expected an author as 'Name <mail>', got {identity!r}", reason="invalid_identity")
    return found[1], found[2]


def with_trailers(message: str, trailers: Mapping[str, str]) -> str:
    """A commit message that ends with the trailers, each once.

    Raises:
        Unrecoverable: ``invalid_trailer``: a name with other than letters, digits and dashes, or a value of two lines.
    """
    lines = message.replace("\r\n", "\n").replace("\0", "").rstrip().split("\n")
    for name, value in trailers.items():
        if not _TRAILER.match(name) or not value.strip() or any(ord(character) < 32 for character in value):
            raise Unrecoverable(f"{name!r}: {value!r} can't be a commit's trailer", reason="invalid_trailer")
    wanted = [f"{name}: {value}" for name, value in trailers.items()]
    missing = [line for line in wanted if line not in lines]
    if not missing:
        return "\n".join(lines) + "\n"
    ends_with_trailers = len(lines) > 2 and _is_trailer_block(lines)
    return "\n".join([*lines, *([] if ends_with_trailers else [""]), *missing]) + "\n"


def _is_trailer_block(lines: Sequence[str]) -> bool:
    last = []
    for line in reversed(lines):
        if not line.strip():
            break
        last.append(line)
    return len(last) < len(lines) and all(re.match(r"^[A-Za-z][A-Za-z0-9-]*: \S", line) for line in last)


class Mirror:
    """One project's bare mirror.

    Args:
        git: Runs the commands.
        folder: The project's own folder.
        signing: Signs the commits that are made here.
        lock_timeout: Longest wait for another process's update.
    """

    def __init__(
        self,
        git: Git,
        folder: Path,
        *,
        signing: Signing | None = None,
        lock_timeout: timedelta = timedelta(minutes=10),
    ) -> None:
        self._git = git
        self._folder = folder
        self._signing = signing
        self._lock_timeout = lock_timeout
        self.path = folder / "mirror.git"

    # --- keeping it

    async def update(self, remote: GitRemote, *, asked_at: float | None = None) -> None:
        """Fetch the forge's branches and tags.

        Args:
            remote: Where from.
            asked_at: Wall-clock seconds; a fetch by anybody that began later is good enough. None: now.

        Raises:
            GitFailed: As git's failure says.
        """
        wanted = time.time() if asked_at is None else asked_at
        stamp = self.path / "corral-fetched"
        address = hashlib.sha256(remote.url.encode()).hexdigest()
        async with self._write_lock() as fd:
            if _stamped(stamp, address) >= wanted:
                return
            started = time.time()
            await self._fetch(remote, fd)
            stamp.write_text(f"{started!r} {address}")
            await self._tidy(fd)

    @contextlib.asynccontextmanager
    async def _write_lock(self) -> AsyncIterator[int]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with locked(self._folder / "mirror.lock", timeout=self._lock_timeout) as fd:
            await self._ensure(fd)
            yield fd

    async def _ensure(self, fd: int) -> None:
        """Make the mirror when there is none; the lock is held."""
        if (self.path / "HEAD").exists():
            self._write_attributes(self.path)
            return
        fresh = self._folder / f"mirror-{uuid.uuid4().hex}.tmp"
        for leftover in self._folder.glob("mirror-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)
        await self._git.run("init", "--bare", "--quiet", "--template=", "--", str(fresh), keep_open=[fd])
        self._write_attributes(fresh)
        fresh.rename(self.path)

    @staticmethod
    def _write_attributes(mirror: Path) -> None:
        """Say what wins over any ``.gitattributes``."""
        file = mirror / "info" / "attributes"
        if not file.exists():  # a mirror of an earlier release has none
            file.parent.mkdir(exist_ok=True)
            file.write_text(_ATTRIBUTES)

    async def _fetch(self, remote: GitRemote, fd: int) -> None:
        command = [
            "fetch",
            "--quiet",
            "--prune",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
            "--no-show-forced-updates",
            *transport_options(remote, "upload-pack"),
            "--",
            remote.url,
            "+refs/heads/*:refs/remotes/origin/*",
            "+refs/tags/*:refs/tags/*",
        ]
        await self._write(*command, fd=fd, remote=remote, timeout=timedelta(hours=1))

    async def _write(self, *command: str, fd: int, **options: Any) -> None:
        """Run a command that writes refs; our lock is held."""
        try:
            await self._git.run(*command, git_dir=self.path, keep_open=[fd], **options)
        except GitFailed as error:
            if error.reason != "locked":
                raise
            # Nobody else writes while we hold the lock: a killed git left these behind.
            for leftover in [*self.path.glob("*.lock"), *(self.path / "refs").rglob("*.lock")]:
                leftover.unlink(missing_ok=True)
            await self._git.run(*command, git_dir=self.path, keep_open=[fd], **options)

    async def _tidy(self, fd: int) -> None:
        """Once a day: forget generated branches that nobody comes back to, and keep the number of packs low."""
        stamp = self.path / "corral-tidied"
        now = time.time()
        if stamp.exists() and now - stamp.stat().st_mtime < timedelta(days=1).total_seconds():
            return
        listed = await self._git.run(
            "for-each-ref",
            "--format=%(committerdate:unix) %(refname)",
            "refs/heads/",
            "refs/corral/",
            git_dir=self.path,
        )
        oldest = now - _KEEP_GENERATED.total_seconds()
        old = [name for date, _, name in (row.partition(" ") for row in listed.text.splitlines()) if int(date) < oldest]
        if old:
            commands = "".join(f"delete {name}\n" for name in old)
            await self._git.run("update-ref", "--stdin", git_dir=self.path, stdin=commands.encode(), keep_open=[fd])
        expiry = f"--expire={_KEEP_GENERATED.days}.days.ago"
        await self._git.run("prune", expiry, git_dir=self.path, keep_open=[fd], timeout=timedelta(hours=1))
        packs = self.path / "objects" / "pack"
        if sum(1 for name in os.listdir(packs) if name.endswith(".pack")) > _PACKS_BEFORE_REPACK:  # noqa: PTH208  names only
            await self._git.run(
                "repack", "--geometric=2", "-d", "-q", git_dir=self.path, keep_open=[fd], timeout=timedelta(hours=1)
            )
        stamp.touch()

    # --- reading

    async def resolve(self, revision: str) -> str | None:
        """Full hash of the commit that a revision names in this mirror; None when it names none.

        Args:
            revision: A hash, or a full ref such as ``refs/remotes/origin/main``.
        """
        if not (self.path / "HEAD").exists():
            return None
        found = await self._git.run(
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            f"{check_revision(revision)}^{{commit}}",
            git_dir=self.path,
            ok=(0, 1, 128),
        )
        return found.text.strip() if found.code == 0 else None

    async def branch(self, name: str) -> str | None:
        """Tip of one of the forge's branches, as last fetched; None when there is none."""
        return await self.resolve(f"refs/remotes/origin/{name}")

    async def merge_base(self, one: str, other: str) -> str | None:
        """Best common ancestor; None when the histories are unrelated."""
        found = await self._git.run("merge-base", "--end-of-options", one, other, git_dir=self.path, ok=(0, 1))
        return found.text.split()[0] if found.code == 0 else None

    async def is_ancestor(self, ancestor: str, descendant: str) -> bool:
        """Whether ``descendant`` holds all of ``ancestor``'s history."""
        found = await self._git.run(
            "merge-base", "--is-ancestor", "--end-of-options", ancestor, descendant, git_dir=self.path, ok=(0, 1)
        )
        return found.code == 0

    async def changes(self, base: str, head: str) -> list[FileChange]:
        """Files that differ between two commits or trees."""
        return await file_changes(self._git, [base, head], git_dir=self.path)

    async def commit(self, commit: str) -> CommitInfo:
        """One commit, by hash."""
        return (await self._log(commit, limit=1))[0]

    async def commits(self, base: str, head: str, *, limit: int = 1000) -> list[CommitInfo]:
        """The commits of ``base..head``, oldest first.

        Raises:
            Unrecoverable: ``too_many_commits``: more than ``limit``.
        """
        found = await self._log(f"{base}..{head}", limit=limit + 1)
        if len(found) > limit:
            raise Unrecoverable(f"more than {limit} commits between {base} and {head}", reason="too_many_commits")
        return found

    async def _log(self, revisions: str, *, limit: int) -> list[CommitInfo]:
        form = "%H%n%T%n%P%n%an <%ae>%n%ad%n%cn <%ce>%n%cd%n%B"
        printed = await self._git.run(
            "log",
            "-z",
            "--reverse",
            "--topo-order",
            "--no-show-signature",
            "--date=raw",
            f"--max-count={limit}",
            f"--format={form}",
            "--end-of-options",
            revisions,
            git_dir=self.path,
        )
        return [_commit(record) for record in printed.text.split("\0") if record.strip()]

    async def patches(self, base: str, head: str, *, max_bytes: int) -> str:
        """Every commit of ``base..head`` as a patch without context lines: all that a push would publish.

        Raises:
            GitFailed: ``output_too_large``.
        """
        printed = await self._git.run(
            "log",
            "--patch",
            "--unified=0",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--no-renames",
            "--diff-merges=first-parent",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            "--format=commit %H%n%w(0,4,4)%B",
            "--end-of-options",
            f"{base}..{head}",
            git_dir=self.path,
            max_output_bytes=max_bytes,
        )
        return printed.text

    async def blob_sizes(self, blobs: Sequence[str]) -> dict[str, int]:
        """Sizes in bytes, by hash; what is missing here is left out."""
        if not blobs:
            return {}
        printed = await self._git.run(
            "cat-file",
            "--batch-check=%(objectname) %(objecttype) %(objectsize)",
            git_dir=self.path,
            stdin="".join(f"{blob}\n" for blob in blobs).encode(),
        )
        rows = [line.split() for line in printed.text.splitlines()]
        return {row[0]: int(row[2]) for row in rows if len(row) == 3 and row[1] == "blob"}

    async def read_file(self, commit: str, path: str, *, max_bytes: int) -> str | None:
        """A file's text at a commit; None when there is none, or it is larger than ``max_bytes``."""
        listed = await self._git.run("ls-tree", "-z", "--end-of-options", commit, path, git_dir=self.path)
        for row in listed.text.split("\0"):
            meta, _, name = row.partition("\t")
            fields = meta.split()
            if name == path and len(fields) == 3 and fields[0] in {"100644", "100755"}:
                if (await self.blob_sizes([fields[2]])).get(fields[2], max_bytes + 1) > max_bytes:
                    return None
                return await self.read_blob(fields[2])
        return None

    async def read_blob(self, blob: str) -> str:
        """A blob's text, by hash."""
        return (await self._git.run("cat-file", "blob", blob, git_dir=self.path)).text

    async def is_published(self, commit: str) -> bool:
        """Whether one of the forge's branches, as last fetched, has this commit."""
        found = await self._git.run(
            "for-each-ref", "--count=1", f"--contains={commit}", "refs/remotes/origin/", git_dir=self.path
        )
        return bool(found.text.strip())

    async def merge(self, ours: str, theirs: str) -> Merged:
        """Merge two commits without touching any ref or worktree."""
        printed = await self._git.run(
            "merge-tree",
            "--write-tree",
            "-z",
            "--name-only",
            "--no-messages",
            "--allow-unrelated-histories",
            ours,
            theirs,
            git_dir=self.path,
            ok=(0, 1),
        )
        tree, *conflicts = [part for part in printed.text.split("\0") if part.strip()]
        return Merged(tree, tuple(dict.fromkeys(conflicts)))

    # --- writing

    async def commit_tree(
        self,
        tree: str,
        parents: Sequence[str],
        message: str,
        *,
        author: str,
        committer: str,
        author_date: str | None = None,
        committer_date: str | None = None,
        sign: bool = True,
    ) -> str:
        """Make a commit that no ref names yet.

        Args:
            tree: Its files.
            parents: Its parents.
            message: Whole message.
            author: ``Name <mail>``.
            committer: ``Name <mail>``.
            author_date: git's raw date; None: now.
            committer_date: Likewise.
            sign: Sign it when the worker has a key.
        """
        author_name, author_mail = parse_identity(author)
        committer_name, committer_mail = parse_identity(committer)
        env = {
            "GIT_AUTHOR_NAME": author_name,
            "GIT_AUTHOR_EMAIL": author_mail,
            "GIT_COMMITTER_NAME": committer_name,
            "GIT_COMMITTER_EMAIL": committer_mail,
        }
        if author_date is not None:
            env["GIT_AUTHOR_DATE"] = f"@{author_date}"
        if committer_date is not None:
            env["GIT_COMMITTER_DATE"] = f"@{committer_date}"
        signing = self._signing if sign else None
        made = await self._git.run(
            "commit-tree",
            *(["-S"] if signing else []),
            *(part for parent in parents for part in ("-p", parent)),
            "-F",
            "-",
            tree,
            git_dir=self.path,
            stdin=message.encode(),
            env=env,
            config=signing.config if signing else None,
        )
        return made.text.strip()

    async def rebase(self, commits: Sequence[CommitInfo], onto: str) -> str | None:
        """Replay a straight line of commits on another base.

        Args:
            commits: Oldest first, each the parent of the next.
            onto: New base.

        Returns:
            The new tip; the same for the same input. None when a commit does not apply cleanly, or is a merge.
        """
        tip = onto
        for commit in commits:
            if len(commit.parents) != 1:
                return None
            merged = await self._transplant(commit, tip)
            if merged.conflicts:
                return None
            if merged.tree == await self._tree_of(tip):
                continue  # the new base has this change already
            tip = await self.commit_tree(
                merged.tree,
                [tip],
                commit.message,
                author=commit.author,
                committer=commit.committer,
                author_date=commit.author_date,
                committer_date=commit.committer_date,
            )
        return tip

    async def _transplant(self, commit: CommitInfo, onto: str) -> Merged:
        """Apply one commit's change to another base.

        ``git merge-tree`` takes an explicit base only since git 2.40. Three commits without history make it compare
        exactly these three trees on any version.
        """
        nobody = "Corral <corral@localhost>"

        async def bare(tree: str, *parents: str) -> str:
            return await self.commit_tree(
                tree,
                parents,
                "x",
                author=nobody,
                committer=nobody,
                author_date="0 +0000",
                committer_date="0 +0000",
                sign=False,
            )

        base = await bare(await self._tree_of(commit.parents[0]))
        theirs = await bare(commit.tree, base)
        ours = await bare(await self._tree_of(onto), base)
        return await self.merge(ours, theirs)

    async def _tree_of(self, commit: str) -> str:
        found = await self._git.run("rev-parse", "--verify", f"{commit}^{{tree}}", git_dir=self.path)
        return found.text.strip()

    async def set_branch(self, name: str, commit: str) -> None:
        """Let a branch of this mirror (not the forge's) name a commit."""
        async with self._write_lock() as fd:
            await self._write("update-ref", f"refs/heads/{name}", commit, fd=fd)

    async def restore_branch(self, name: str, commit: str, *, before: str | None) -> None:
        """Let a branch of this mirror be what it was before it named a commit.

        Args:
            name: The branch.
            commit: What it must name now.
            before: What it named before; None: there was no such branch.

        Raises:
            GitFailed: ``branch_moved``: it names another commit by now.
        """
        change = ["-d", f"refs/heads/{name}"] if before is None else [f"refs/heads/{name}", before]
        async with self._write_lock() as fd:
            await self._write("update-ref", *change, commit, fd=fd)

    async def bundle(self, commit: str, *, max_bytes: int) -> bytes:
        """A git bundle of a commit with all that no branch or tag of the forge has.

        Raises:
            Unrecoverable: ``commit_too_large``.
        """
        name = f"refs/corral/bundle/{uuid.uuid4().hex}"
        try:
            async with self._write_lock() as fd:
                await self._write("update-ref", name, commit, fd=fd)
            made = await self._git.run(
                "bundle",
                "create",
                "--quiet",
                "-",
                name,
                "--not",
                "--remotes=origin",
                "--tags",
                git_dir=self.path,
                max_output_bytes=max_bytes,
            )
        except GitFailed as error:
            if error.reason != "output_too_large":
                raise
            raise Unrecoverable(
                f"the commit is larger than {max_bytes} bytes as a git bundle; make the change smaller",
                reason="commit_too_large",
            ) from error
        finally:
            await see_through(self._forget(name))
        return made.stdout

    async def _forget(self, ref: str) -> None:
        async with self._write_lock() as fd:
            await self._write("update-ref", "-d", ref, fd=fd)

    async def unbundle(self, bundle: bytes) -> None:
        """Take a bundle's commits in.

        Raises:
            GitFailed: ``bundle_base_missing``: it builds on a commit that the forge no longer has.
        """
        async with self._write_lock() as fd:
            holder = self._folder / f"{uuid.uuid4().hex}.bundle"
            try:
                holder.write_bytes(bundle)
                unpacked = await self._git.run(
                    "bundle", "unbundle", str(holder), git_dir=self.path, keep_open=[fd], ok=(0, 1, 128)
                )
            finally:
                holder.unlink(missing_ok=True)
        if unpacked.code == 0:
            return
        if "prerequisite" in unpacked.stderr:
            raise GitFailed(
                "a stored commit builds on one that the repository no longer has; generate it anew",
                service="git",
                operation="unbundle",
                retryable=False,
                reason="bundle_base_missing",
            )
        raise failure("unbundle", unpacked)

    async def push(self, remote: GitRemote, commit: str, *, branch: str, expected: str | None) -> None:
        """Let a branch of the forge name a commit, if it still is what it was.

        Args:
            remote: Where to.
            commit: What to push.
            branch: The branch.
            expected: Its tip as last seen; None when there must be no such branch.

        Raises:
            GitFailed: ``branch_moved`` when the branch is no longer as expected; else as the forge refused.
        """
        pushed = await self._git.run(
            "push",
            "--porcelain",
            "--no-verify",
            "--no-follow-tags",
            "--no-recurse-submodules",
            "--no-signed",
            f"--force-with-lease=refs/heads/{branch}:{expected or ''}",
            *transport_options(remote, "receive-pack"),
            "--",
            remote.url,
            f"{commit}:refs/heads/{branch}",
            git_dir=self.path,
            remote=remote,
            ok=(0, 1, 128),
            timeout=timedelta(minutes=30),
        )
        if pushed.code == 0:
            return
        rows = [row for row in masked(pushed.text, remote).splitlines() if row.startswith("!")]
        raise failure("push", GitOutput(b"", "\n".join([*rows, pushed.stderr]), pushed.code), remote)


async def file_changes(
    git: Git, revisions: Sequence[str], *, git_dir: Path, index: Path | None = None, work_tree: Path | None = None
) -> list[FileChange]:
    """Files that differ between two trees, or between a tree and an index.

    Args:
        git: Runs the command.
        revisions: Two trees or commits; or one, to compare the index with.
        git_dir: The repository.
        index: The index, when it is compared.
        work_tree: The index's worktree.
    """
    options = ["-r", "-z", "--raw", "--numstat", "--no-renames", "--no-abbrev", "--ignore-submodules=none"]
    command = ["diff-index", "--cached", *options] if index is not None else ["diff-tree", *options]
    printed = await git.run(*command, *revisions, "--", git_dir=git_dir, index=index, work_tree=work_tree)
    return _parse_changes(printed.text)


_STATUSES: Final = {
    "A": FileStatus.ADDED,
    "M": FileStatus.MODIFIED,
    "D": FileStatus.DELETED,
    "T": FileStatus.TYPE_CHANGED,
}


def _parse_changes(printed: str) -> list[FileChange]:
    """Read ``--raw --numstat -z``: first all raw records (two parts each), then all counts (one part each)."""
    parts = iter(printed.split("\0"))
    raw: dict[str, tuple[str, str, FileStatus]] = {}
    counts: dict[str, tuple[str, str]] = {}
    for part in parts:
        if part.startswith(":"):
            _, mode, _, blob, status = part[1:].split(" ")
            raw[next(parts)] = (mode, blob, _STATUSES.get(status[0], FileStatus.MODIFIED))
        elif part:
            added, removed, path = part.split("\t", 2)
            counts[path] = (added, removed)
    changes = []
    for path, (mode, blob, status) in raw.items():
        added, removed = counts.get(path, ("0", "0"))
        changes.append(
            FileChange(
                path=path,
                status=status,
                lines_added=0 if added == "-" else int(added),
                lines_removed=0 if removed == "-" else int(removed),
                binary=added == "-",
                mode=mode,
                blob=blob,
            )
        )
    return changes


def _commit(record: str) -> CommitInfo:
    commit, tree, parents, author, author_date, committer, committer_date, message = record.lstrip("\n").split("\n", 7)
    return CommitInfo(
        hash=commit,
        tree=tree,
        parents=tuple(parents.split()),
        author=author,
        author_date=author_date,
        committer=committer,
        committer_date=committer_date,
        message=message,
    )


def is_full_hash(revision: str) -> bool:
    """Whether a revision is a whole commit hash and needs no look-up."""
    return _FULL_HASH.match(revision) is not None


def _stamped(stamp: Path, address: str) -> float:
    try:
        started, fetched = stamp.read_text().split()
        return float(started) if fetched == address else 0.0
    except (OSError, ValueError):
        return 0.0
