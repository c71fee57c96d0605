"""``corral pr``: pull requests of the local forge by the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.cli.conftest import Cli
from tests.support.repositories import Repository

from corral.adapters.forge.local import LocalForge
from corral.adapters.forge.port import NewPullRequest
from corral.jobs.pr_creation.description import Description

Documents = Callable[..., list[Any]]
BODY = Description(
    text="It adds *a thing*.", task_id="7", user_id="ada", key="0" * 32, test_summary="All tests pass: 3 of 3."
).body(limit=60_000)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path, {"README.md": "# Sample\n", "add.py": "def add(a, b):\n    return a + b\n"})


@pytest.fixture
def project(cli: Cli, repository: Repository, tmp_path: Path) -> str:
    name = f"pr-{tmp_path.name}"
    added = cli("project", "add", name, str(repository.bare), "--replace")
    assert added.exit_code == 0, added.output
    return name


def open_one(repository: Repository, branch: str, files: dict[str, str], title: str = "Add a thing") -> None:
    head = repository.commit(dict(files), branch=branch)
    request = NewPullRequest(title=title, body=BODY, source_branch=branch, target_branch="main", head=head)
    asyncio.run(LocalForge().open(str(repository.bare), request))


def test_one_is_listed_shown_and_merged(cli: Cli, documents: Documents, repository: Repository, project: str) -> None:
    assert "no pull requests" in cli("pr", "list", project).stdout
    open_one(repository, "corral/7", {"add.py": "def add(*numbers):\n    return sum(numbers)\n"})

    (listed,) = documents("pr", "list", project)
    assert (listed["number"], listed["state"], listed["sourceBranch"]) == (1, "open", "corral/7")
    assert "corral/7 → main" in cli("pr", "list", project, "--state", "open").stdout
    assert documents("pr", "list", project, "--state", "merged") == []

    shown = cli("pr", "show", project, "1").stdout
    for said in ("#1 Add a thing", "It adds a thing.", "All tests pass: 3 of 3.", "+2 -2", "+    return sum(numbers)"):
        assert said in shown
    (document,) = documents("pr", "show", project, "1")
    assert document["testSummary"] == "All tests pass: 3 of 3."
    assert [one["path"] for one in document["files"]] == ["add.py"]
    assert "+    return sum(numbers)" in document["diff"]

    (merged,) = documents("pr", "merge", project, "1")
    assert (merged["state"], merged["mergeCommit"]) == ("merged", repository.tip())
    again = cli("pr", "merge", project, "1")
    assert again.exit_code == 4
    assert "#1 is merged" in again.stderr


def test_conflicts_are_named_and_nothing_is_merged(cli: Cli, repository: Repository, project: str) -> None:
    open_one(repository, "corral/8", {"add.py": "def add(a, b, c):\n    return a + b + c\n"})
    tip = repository.commit({"add.py": "def add(a, b):\n    return b + a\n"})

    shown = cli("pr", "show", project, "1").stdout
    assert "these files conflict" in shown
    refused = cli("pr", "merge", project, "1")

    assert refused.exit_code == 4
    assert "add.py" in refused.stderr
    assert "merge main into corral/8" in refused.stderr
    assert repository.tip() == tip


def test_one_is_closed(documents: Documents, cli: Cli, repository: Repository, project: str) -> None:
    open_one(repository, "corral/9", {"more.py": "MORE = 1\n"})

    (closed,) = documents("pr", "close", project, "1")

    assert closed["state"] == "closed"
    assert cli("pr", "close", project, "1").exit_code == 4
    assert "corral/9" in repository.branches()


def test_what_steers_a_terminal_is_written_out(cli: Cli, repository: Repository, project: str) -> None:
    open_one(repository, "corral/10", {"evil.py": "x = 1  # \x1b[2J\u202eon\n"}, title="Clear\x1b[2J [red]it[/red]")

    for command in (("pr", "show", project, "1"), ("pr", "list", project)):
        shown = cli(*command).stdout
        assert "\x1b[2J" not in shown
        assert "\u202e" not in shown
        assert "Clear\\u001b[2J" in shown
        assert "[red]it[/red]" in shown


@pytest.mark.parametrize(
    ("command", "code"),
    [(("pr", "show", "{project}", "7"), 3), (("pr", "list", "nowhere"), 3), (("pr", "show", "{project}", "0"), 2)],
)
def test_what_is_not_there_is_told(cli: Cli, project: str, command: tuple[str, ...], code: int) -> None:
    result = cli(*(part.format(project=project) for part in command))

    assert result.exit_code == code, result.output


def test_a_project_on_another_forge_gets_one_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"hub-{tmp_path.name}"

    async def unreachable(*_: object, **__: object) -> str:
        return "main"

    monkeypatch.setattr("corral.interfaces.cli.projects._default_branch", unreachable)
    assert cli("project", "add", name, "https://github.com/owner/name").exit_code == 0

    for command in (("list", name), ("show", name, "1"), ("merge", name, "1"), ("close", name, "1")):
        refused = cli("pr", *command)
        assert refused.exit_code == 2
        assert refused.stderr.count("\n") == 1
        assert "are on github: see, merge and close them there (https://github.com/owner/name)" in refused.stderr
    told = json.loads(cli("pr", "list", name, "--json").stderr)
    assert (told["error"], told["exitCode"]) == ("ForgeFailed", 2)
