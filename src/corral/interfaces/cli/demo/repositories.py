"""The repositories that the demo works on: the sample, made with its history, or a copy of the user's own.

Either is a bare repository in the data folder, so that the demo's branches and pull requests never touch what the user
pointed at.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from corral.adapters.git import Git, GitRemote
from corral.errors import ConfigurationError, GitFailed

_HISTORY: Final = "history"
_MESSAGE: Final = "message.txt"
# Fixed, so that the sample has the same commits every time: what a worker has cached of it stays true.
_FIRST_COMMIT: Final = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
_BETWEEN: Final = timedelta(days=1, hours=2)
_AUTHOR: Final = {
    "GIT_AUTHOR_NAME": "Sam Sample",
    "GIT_AUTHOR_EMAIL": "sam@example.invalid",
    "GIT_COMMITTER_NAME": "Sam Sample",
    "GIT_COMMITTER_EMAIL": "sam@example.invalid",
}
_CLONE_TIMEOUT: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class DemoRepository:
    """A bare repository that the demo may write to."""

    #: Its id as a project.
    project_id: str
    path: Path
    default_branch: str
    test_command: str | None


def sample_folder() -> Path:
    """The sample project's files: beside this package when installed, in ``examples/`` when developed.

    Raises:
        ConfigurationError: Neither is there.
    """
    installed = Path(__file__).parent / "sample_project"
    developed = Path(__file__).parents[5] / "examples" / "sample_project"
    for folder in (installed, developed):
        if (folder / _HISTORY).is_dir():
            return folder
    raise ConfigurationError(f"expected the sample project in {installed}; reinstall Corral, or give --repo")


async def make_sample(source: Path, target: Path, git: Git) -> DemoRepository:
    """Make the sample repository anew: one commit for each folder of its history, each laid over the one before."""
    steps = await asyncio.to_thread(_folders, source / _HISTORY)
    await asyncio.to_thread(_make_room, target)
    await git.run("init", "--quiet", "--bare", "--initial-branch=main", "--", str(target))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="sample-") as folder:
        work_tree = Path(folder)
        for number, step in enumerate(steps):
            shutil.copytree(step, work_tree, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_MESSAGE, "__pycache__"))
            date = (_FIRST_COMMIT + number * _BETWEEN).isoformat()
            env = {**_AUTHOR, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
            await git.run("add", "--all", git_dir=target, work_tree=work_tree)
            message = (step / _MESSAGE).read_bytes()
            await git.run("commit", "--quiet", "--file=-", git_dir=target, work_tree=work_tree, stdin=message, env=env)
        test_command = guess_test_command(work_tree)
    return DemoRepository("demo-sample", target, "main", test_command)


async def copy_of(repository: str, folder: Path, git: Git) -> DemoRepository:
    """A bare copy of the user's repository, made anew.

    Args:
        repository: A path or an address.
        folder: Where copies are kept.
        git: Runs git.

    Raises:
        ConfigurationError: It is no git repository, or has no commit.
        GitFailed: It can't be reached.
    """
    address = repository if "://" in repository else await asyncio.to_thread(_absolute, repository)
    name = (
        re.sub(r"[^A-Za-z0-9_.-]+", "-", address.rstrip("/").rsplit("/", 1)[-1].removesuffix(".git")).strip("-.")
        or "repo"
    )
    # Two repositories of one name are two projects.
    project_id = f"demo-{name[:40]}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
    target = folder / f"{project_id}.git"
    await asyncio.to_thread(_make_room, target)
    try:
        await git.run(
            "clone",
            "--quiet",
            "--bare",
            "--no-hardlinks",
            "--",
            address,
            str(target),
            remote=GitRemote(address),
            timeout=_CLONE_TIMEOUT,
        )
        head = (await git.run("symbolic-ref", "--short", "HEAD", git_dir=target)).text.strip()
        listing = await git.run("ls-tree", "-r", "--name-only", "-z", head, git_dir=target)
    except GitFailed as error:
        await asyncio.to_thread(_make_room, target)
        raise ConfigurationError(
            f"expected a git repository with at least one commit, got {repository!r}: {error}"
        ) from error
    names = set(listing.text.split("\0"))
    package_json = await _read(git, target, head, "package.json") if "package.json" in names else None
    return DemoRepository(project_id, target, head, test_command_of(names, package_json))


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir())


def _make_room(target: Path) -> None:
    """Remove what an earlier demo left, and make the folder that it lies in."""
    with suppress(FileNotFoundError):
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def guess_test_command(work_tree: Path) -> str | None:
    """What runs a work tree's tests, by the files that are in it."""
    names = {path.relative_to(work_tree).as_posix() for path in work_tree.rglob("*") if path.is_file()}
    package_json = work_tree / "package.json"
    return test_command_of(names, package_json.read_text() if package_json.is_file() else None)


def test_command_of(names: set[str], package_json: str | None) -> str | None:
    """What runs the tests of a repository with these files; None when nothing tells."""
    if package_json is not None and _has_test_script(package_json):
        return "npm test"
    for marker, command in (("go.mod", "go test ./..."), ("Cargo.toml", "cargo test"), ("pom.xml", "mvn -q test")):
        if marker in names:
            return command
    tests = [name for name in names if re.search(r"(^|/)(test_[^/]*|[^/]*_test)\.py$", name)]
    if not tests:
        return None
    uses_pytest = any(name in names for name in ("pytest.ini", "conftest.py", "tests/conftest.py", "tox.ini"))
    return "python3 -m pytest -q" if uses_pytest else "python3 -m unittest"


def _has_test_script(package_json: str) -> bool:
    try:
        scripts = json.loads(package_json).get("scripts", {})
    except (ValueError, AttributeError):
        return False
    return isinstance(scripts, dict) and "test" in scripts


async def _read(git: Git, git_dir: Path, revision: str, path: str) -> str:
    return (await git.run("cat-file", "blob", f"{revision}:{path}", git_dir=git_dir)).text
