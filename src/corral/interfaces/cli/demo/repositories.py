"""The repositories that the demo works on: the sample, made with its history, or a copy of the user's own.

Either is a bare repository in the data folder, so that the demo's branches and pull requests never touch what the user
pointed at.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from corral.adapters.git import Git, GitRemote, masked_url
from corral.errors import ConfigurationError, GitFailed

_TASK: Final = "task.toml"
_MAKER: Final = "make_repository.py"
_CLONE_TIMEOUT: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class DemoRepository:
    """A bare repository that the demo may write to."""

    #: Its id as a project.
    project_id: str
    path: Path
    default_branch: str
    test_command: str | None


@dataclass(frozen=True, slots=True)
class DemoTask:
    """What the demo asks for."""

    prompt: str
    #: What the change is about, where that is known.
    files: tuple[str, ...] = ()
    candidates: int = 3
    max_repairs: int = 2


def sample_folder() -> Path:
    """The sample project's files: beside this package when installed, in ``examples/`` when developed.

    Raises:
        ConfigurationError: Neither is there.
    """
    installed = Path(__file__).parent / "sample_project"
    developed = Path(__file__).parents[5] / "examples" / "sample_project"
    for folder in (installed, developed):
        if (folder / _TASK).is_file():
            return folder
    raise ConfigurationError(f"expected the sample project in {installed}; reinstall Corral, or give --repo")


def sample_task(source: Path) -> DemoTask:
    """The sample project's own task."""
    task = tomllib.loads((source / _TASK).read_text(encoding="utf-8"))
    return DemoTask(task["prompt"].strip(), tuple(task["files"]), task["candidates"], task["max_repairs"])


async def make_sample(source: Path, folder: Path, git: Git) -> DemoRepository:
    """Make the sample repository anew, with the same commits every time: what workers cached of it stays true."""
    task = tomllib.loads((source / _TASK).read_text(encoding="utf-8"))
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="sample-") as scratch:
        made = await asyncio.to_thread(_maker(source), Path(scratch) / "work")
        copied = await copy_of(str(made), folder, git, project_id=f"demo-{task['project_id']}")
    return replace(copied, test_command=task["test_command"])


def _maker(source: Path) -> Callable[[Path], Path]:
    """``make_repository`` of the sample's own program, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("corral_sample_project", source / _MAKER)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"expected {_MAKER} in {source}; reinstall Corral, or give --repo")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make: Callable[[Path], Path] = module.make_repository
    return make


async def copy_of(repository: str, folder: Path, git: Git, *, project_id: str | None = None) -> DemoRepository:
    """A bare copy of the user's repository, made anew.

    Args:
        repository: A path or an address.
        folder: Where copies are kept.
        git: Runs git.
        project_id: Its id as a project; default: made from its name.

    Raises:
        ConfigurationError: It is no git repository, or has no commit.
        GitFailed: It can't be reached.
    """
    address = repository if "://" in repository else await asyncio.to_thread(_absolute, repository)
    project_id = project_id or _project_id(address)
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
            f"expected a git repository with at least one commit, got {masked_url(repository)!r}: {error}"
        ) from error
    names = set(listing.text.split("\0"))
    package_json = await _read(git, target, head, "package.json") if "package.json" in names else None
    return DemoRepository(project_id, target, head, test_command_of(names, package_json))


def _project_id(address: str) -> str:
    name = address.rstrip("/").rsplit("/", 1)[-1].removesuffix(".git")
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "repository"
    # Two repositories of one name are two projects.
    return f"demo-{plain[:40]}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


def _make_room(target: Path) -> None:
    """Remove what an earlier demo left, and make the folder that it lies in."""
    with suppress(FileNotFoundError):
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


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
