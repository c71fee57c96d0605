"""The repositories that the demo works on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from corral.adapters.git import Git
from corral.errors import ConfigurationError
from corral.interfaces.cli.demo.repositories import copy_of, make_sample, sample_folder, sample_task, test_command_of

command_of = test_command_of
command_of.__test__ = False  # type: ignore[attr-defined] # its name begins with test


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Sam", "-c", "user.email=sam@example.invalid")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


async def test_the_sample_has_the_same_commits_every_time(tmp_path: Path) -> None:
    first = await make_sample(sample_folder(), tmp_path / "one", Git())
    second = await make_sample(sample_folder(), tmp_path / "two", Git())
    again = await make_sample(sample_folder(), tmp_path / "two", Git())
    heads = {_git(repository.path, "rev-parse", "main") for repository in (first, second, again)}
    assert len(heads) == 1
    assert int(_git(first.path, "rev-list", "--count", "main")) >= 3, "it has a history"
    assert _git(first.path, "rev-parse", "--is-bare-repository") == "true"
    assert first.test_command
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [second.path.name]


def test_the_sample_s_task_is_whole() -> None:
    task = sample_task(sample_folder())
    assert task.prompt
    assert 1 <= task.candidates <= 10


async def test_a_copy_leaves_the_original_alone(tmp_path: Path) -> None:
    original = tmp_path / "my project"
    _git(tmp_path, "init", "--quiet", "--initial-branch=trunk", str(original))
    (original / "test_it.py").write_text("")
    _git(original, "add", ".")
    _git(original, "commit", "--quiet", "-m", "Begin")
    copied = await copy_of(str(original), tmp_path / "copies", Git())
    assert copied.default_branch == "trunk"
    assert copied.test_command == "python3 -m unittest"
    assert copied.project_id.startswith("demo-my-project-")
    _git(copied.path, "branch", "new")
    assert _git(original, "branch", "--list", "new") == ""


@pytest.mark.parametrize("kind", ["missing", "folder", "empty"])
async def test_what_is_no_repository_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    given = tmp_path / kind
    if kind == "folder":
        given.mkdir()
    if kind == "empty":
        _git(tmp_path, "init", "--quiet", str(given))
    with pytest.raises(ConfigurationError, match="expected a git repository"):
        await copy_of(str(given), tmp_path / "copies", Git())
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize(
    ("names", "package_json", "command"),
    [
        ({"package.json"}, '{"scripts": {"test": "jest"}}', "npm test"),
        ({"package.json"}, '{"scripts": {}}', None),
        ({"package.json"}, "nonsense", None),
        ({"package.json"}, "[]", None),
        ({"go.mod"}, None, "go test ./..."),
        ({"Cargo.toml"}, None, "cargo test"),
        ({"tests/test_a.py"}, None, "python3 -m unittest"),
        ({"tests/test_a.py", "tests/conftest.py"}, None, "python3 -m pytest -q"),
        ({"README.md"}, None, None),
    ],
)
def test_a_test_command_is_guessed(names: set[str], package_json: str | None, command: str | None) -> None:
    assert command_of(names, package_json) == command
