"""Keeps what a set-up command installed, so that the next run with the same lock files need not install it again.

What is kept: every file and folder that the command made in the worktree (``node_modules``, ``.venv``), the files that
it changed there, and its home folder (``~/.local``, ``~/go``, ``~/.cargo``). Later runs of the project see the made
ones read-only, at the same paths. It was written by untrusted code: it is only moved, never looked into, and no link
in it is followed on the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from corral.adapters.sandbox.port import HOME, WORKSPACE, Mount
from corral.adapters.sandbox.removal import remove_tree
from corral.errors import SandboxFailed
from corral.jobs.test_execution.hostile_files import UnsafeFileError, open_regular, read_bounded

_FORMAT = "1"
_MANIFEST = "manifest.json"
_LOCK_PERIOD_S = 0.1
_LOCKFILE_BYTES = 16 * 1024 * 1024
#: Files that say what is to be installed, or how.
_DECLARATIONS = re.compile(
    r"^(?:requirements[^/]*\.(?:txt|in)|constraints[^/]*\.txt|pyproject\.toml|poetry\.lock|uv\.lock|pdm\.lock|Pipfile|"
    r"Pipfile\.lock|setup\.(?:py|cfg)|environment\.ya?ml|package\.json|package-lock\.json|npm-shrinkwrap\.json|"
    r"yarn\.lock|pnpm-lock\.yaml|pnpm-workspace\.yaml|bun\.lockb?|\.npmrc|\.yarnrc(?:\.yml)?|go\.(?:mod|sum|work)|"
    r"Cargo\.(?:toml|lock)|rust-toolchain(?:\.toml)?|Gemfile(?:\.lock)?|composer\.(?:json|lock)|pom\.xml|"
    r"build\.gradle(?:\.kts)?|settings\.gradle(?:\.kts)?|gradle\.lockfile|mix\.(?:exs|lock)|Makefile|"
    r"\.python-version|\.nvmrc|\.node-version|\.tool-versions)$"
)
_NOT_SEARCHED = frozenset({".git", "node_modules", ".venv", "venv", "__pycache__", "target"})
#: Folders of the home whose children are kept one by one, as the tests want to write beside them.
_SHARED_HOME_FOLDERS = frozenset({".cache", ".config", ".local"})


@dataclass(slots=True)
class Prepared:
    """The result of a set-up, for the runs that follow."""

    mounts: tuple[Mount, ...] = ()
    seconds: float = 0.0
    cached: bool = False
    _worktree: Path | None = None
    _entry: Path | None = None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the cached files from being evicted, and remove the mount points from the worktree afterwards."""
        if self._worktree is None or self._entry is None:
            yield
            return
        points = [self._worktree / mount.target.relative_to(WORKSPACE) for mount in self.mounts if _in_worktree(mount)]
        lock = os.open(self._entry / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield
        finally:
            os.close(lock)
            for point in points:
                with contextlib.suppress(OSError):
                    status = point.lstat()
                    if stat.S_ISDIR(status.st_mode):
                        point.rmdir()  # only when it is empty
                    elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
                        point.unlink()


def _in_worktree(mount: Mount) -> bool:
    return mount.target.is_relative_to(WORKSPACE)


class DependencyCache:
    """Cached set-ups, a folder for each, bounded in size."""

    HOME = HOME

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        """Use ``folder``; the least recently used set-ups go when all together are larger than ``most_bytes``."""
        self._folder = folder
        self._most_bytes = most_bytes

    async def prepare(
        self,
        worktree: Path,
        *,
        project_id: str,
        command: str,
        variant: str,
        scratch: Path,
        run: Callable[[Path], Awaitable[float]],
    ) -> Prepared:
        """Return the set-up of a worktree, from the cache or by running it.

        Args:
            worktree: Where it is set up. What the command makes is moved out of it.
            project_id: Projects never share.
            command: The set-up command.
            variant: What else must be equal for a result to be used again (toolchain, environment, image).
            scratch: A folder on the same disk, removed by the caller; where a new set-up is put together.
            run: Runs the command, with its home folder at the given path; returns its seconds. What it raises is
                raised here, and nothing is kept.
        """
        key = await asyncio.to_thread(_key, worktree, command, variant)
        if key is None:
            # Nothing says what is installed, so nothing says when it changes: run, and keep nothing.
            return await self._run(worktree, scratch, scratch / "setup", run)
        entry = self._folder / project_id / key
        async with _locked(self._folder / project_id / f"{key}.lock"):
            if (entry / _MANIFEST).is_file():
                began = time.monotonic()
                await asyncio.to_thread(_restore, entry, worktree)
                return _prepared(entry, worktree, seconds=time.monotonic() - began, cached=True)
            prepared = await self._run(worktree, scratch, entry, run)
        await asyncio.to_thread(self._evict, entry)
        return prepared

    async def _run(
        self, worktree: Path, scratch: Path, entry: Path, run: Callable[[Path], Awaitable[float]]
    ) -> Prepared:
        building = scratch / "building"
        home = building / "home"
        home.mkdir(parents=True)
        before = await asyncio.to_thread(_snapshot, worktree)
        seconds = await run(home)
        await asyncio.to_thread(_collect, worktree, before, building)
        try:
            building.rename(entry)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise SandboxFailed(
                    f"the set-up could not be kept: {error}", service="dependencies", operation="store", retryable=True
                ) from error
            await asyncio.to_thread(remove_tree, entry)  # without a manifest: a worker died while it removed it
            building.rename(entry)
        return _prepared(entry, worktree, seconds=seconds, cached=False)

    def _evict(self, newest: Path) -> None:
        entries = []
        for manifest in self._folder.glob(f"*/*/{_MANIFEST}"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                size = int(json.loads(manifest.read_text())["bytes"])
                entries.append((manifest.stat().st_mtime, size, manifest.parent))
        total = sum(size for _, size, _ in entries)
        for _, size, entry in sorted(entries):
            if total <= self._most_bytes:
                return
            if entry != newest and _take_away(entry):
                total -= size


def _take_away(entry: Path) -> bool:
    """Remove an entry that nobody uses; False when somebody does."""
    try:
        lock = os.open(entry / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (entry / _MANIFEST).unlink()  # first, so that a half-removed one is never taken for a whole one
        remove_tree(entry)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


@contextlib.asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold a lock file, among tasks and among processes. Waiting does not block the event loop."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_PERIOD_S)
        yield
    finally:
        os.close(descriptor)


def _key(worktree: Path, command: str, variant: str) -> str | None:
    """Hash what a set-up depends on; None when no file declares dependencies."""
    digest = hashlib.sha256(json.dumps([_FORMAT, command, variant]).encode())
    named = set()
    with contextlib.suppress(ValueError):
        named = {str(PurePosixPath(word)) for word in shlex.split(command) if not word.startswith(("-", "/"))}
    found = False
    for path in sorted({*_declarations(worktree), *named}):
        try:
            content = read_bounded(worktree, path, most_bytes=_LOCKFILE_BYTES)
        except (UnsafeFileError, OSError):
            continue
        found = True
        digest.update(json.dumps([path, hashlib.sha256(content).hexdigest()]).encode())
    return digest.hexdigest()[:40] if found else None


def _declarations(worktree: Path) -> Iterator[str]:
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with contextlib.suppress(OSError), os.scandir(worktree / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _NOT_SEARCHED:
                        waiting.append(path)
                elif _DECLARATIONS.match(entry.name):
                    yield path


_State = dict[str, tuple[int, int, int]]


def _entries(folder: Path, known: _State | None) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what is in a worktree, folders before their content; not into folders that aren't ``known``."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with contextlib.suppress(OSError), os.scandir(folder / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if path == ".git":
                    continue
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    yield path, status
                    if stat.S_ISDIR(status.st_mode) and (known is None or path in known):
                        waiting.append(path)


def _snapshot(worktree: Path) -> _State:
    return {
        path: (stat.S_IFMT(status.st_mode), status.st_mtime_ns, status.st_size)
        for path, status in _entries(worktree, None)
    }


def _collect(worktree: Path, before: _State, building: Path) -> None:
    """Move what is new out of the worktree, and copy what has changed; writes the manifest."""
    objects = building / "objects"
    objects.mkdir()
    made: list[str] = []
    links: list[tuple[str, str]] = []
    changed: list[str] = []
    for path, status in list(_entries(worktree, before)):
        kind = stat.S_IFMT(status.st_mode)
        if path not in before:
            if kind == stat.S_IFLNK:
                links.append((path, str((worktree / path).readlink())))
            elif kind in (stat.S_IFDIR, stat.S_IFREG):
                _move(worktree / path, objects / f"new-{len(made)}")
                made.append(path)
        elif kind == stat.S_IFREG and before[path] != (kind, status.st_mtime_ns, status.st_size):
            _copy(worktree, path, objects / f"changed-{len(changed)}")
            changed.append(path)
    size = sum(status.st_blocks * 512 for _, status in _entries(building, None))
    (building / "lock").touch()
    (building / _MANIFEST).write_text(
        json.dumps({"made": made, "links": links, "changed": changed, "home": _home(building), "bytes": size})
    )


def _home(building: Path) -> list[str]:
    """Name the parts of the home folder that later runs see."""
    parts = []
    for entry in os.scandir(building / "home"):
        if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
            continue
        if entry.name in _SHARED_HOME_FOLDERS and entry.is_dir():
            parts += [
                f"{entry.name}/{child.name}"
                for child in os.scandir(entry.path)
                if not child.is_symlink() and (child.is_dir() or child.is_file())
            ]
        else:
            parts.append(entry.name)
    return sorted(parts)


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Links are copied as links; shutil.move's last step would follow none either, but fail on odd modes.
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore_dangling_symlinks=True)
        else:
            shutil.copy2(source, target, follow_symlinks=False)
        remove_tree(source)


def _copy(root: Path, path: str, target: Path) -> None:
    descriptor = open_regular(root, path)
    with os.fdopen(descriptor, "rb") as source, target.open("wb") as copy:
        os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777)
        shutil.copyfileobj(source, copy)


def _load(entry: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((entry / _MANIFEST).read_text())
    return manifest


def _restore(entry: Path, worktree: Path) -> None:
    """Put changed files and links into a worktree; made ones are mounted."""
    os.utime(entry / _MANIFEST)  # the most recently used
    manifest = _load(entry)
    for number, path in enumerate(manifest["changed"]):
        target = worktree / path
        if _leads_through_link(worktree, path) or not target.parent.is_dir():
            continue
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        shutil.copy2(entry / "objects" / f"changed-{number}", target)
    for path, aim in manifest["links"]:
        if not _leads_through_link(worktree, path) and not os.path.lexists(worktree / path):
            with contextlib.suppress(FileNotFoundError):
                (worktree / path).symlink_to(aim)


def _leads_through_link(worktree: Path, path: str) -> bool:
    where = worktree
    for part in PurePosixPath(path).parts[:-1]:
        where = where / part
        if where.is_symlink():
            return True
    return False


def _prepared(entry: Path, worktree: Path, *, seconds: float, cached: bool) -> Prepared:
    manifest = _load(entry)
    mounts = [
        Mount(source=entry / "objects" / f"new-{number}", target=WORKSPACE / path)
        for number, path in enumerate(manifest["made"])
        # A path that this commit has itself wins.
        if not os.path.lexists(worktree / path) and not _leads_through_link(worktree, path)
    ]
    mounts += [Mount(source=entry / "home" / path, target=HOME / path) for path in manifest["home"]]
    return Prepared(tuple(mounts), seconds, cached, worktree, entry)
