"""Pull requests of the local forge over HTTP and in the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory
from tests.support.repositories import Repository

from corral.adapters.forge.local import LocalForge
from corral.adapters.forge.port import NewPullRequest
from corral.client import Corral
from corral.projects import Project

PULLS = "/v1/projects/shop/pulls"
BODY = "It adds *a thing*.\n\n## Tests\n\nAll tests pass: 3 of 3.\n\n---\nOpened by Corral for user `ada`, task `7`.\n"


@pytest.fixture
async def repository(corral: Corral, tmp_path: Path) -> Repository:
    made = Repository(tmp_path, {"README.md": "# Shop\n", "add.py": "def add(a, b):\n    return a + b\n"})
    await corral.parts.projects.add(Project(id="shop", repository=str(made.bare)))
    await corral.parts.projects.add(Project(id="hub", repository="https://github.com/owner/name"))
    return made


async def open_one(
    repository: Repository, branch: str, files: dict[str, str], *, title: str = "Add a thing", body: str = BODY
) -> None:
    head = repository.commit(dict(files), branch=branch)
    request = NewPullRequest(title=title, body=body, source_branch=branch, target_branch="main", head=head)
    await LocalForge().open(str(repository.bare), request)


def conflict(repository: Repository) -> str:
    return repository.commit({"add.py": "def add(a, b):\n    return b + a\n"})


async def test_one_is_listed_read_and_merged(client: Client, repository: Repository) -> None:
    await open_one(repository, "corral/7", {"add.py": "def add(*n):\n    return sum(n)\n"})

    (listed,) = (await client.get(PULLS)).json()["pullRequests"]
    assert (listed["number"], listed["state"], listed["sourceBranch"]) == (1, "open", "corral/7")
    assert "body" not in listed
    one = (await client.get(f"{PULLS}/1")).json()
    assert (one["testSummary"], one["conflicts"]) == ("All tests pass: 3 of 3.", [])
    assert one["files"] == [
        {"path": "add.py", "status": "modified", "linesAdded": 2, "linesRemoved": 2, "binary": False}
    ]
    assert "+    return sum(n)" in one["diff"]

    merged = await client.post(f"{PULLS}/1/merge")
    assert (merged.status_code, merged.json()["state"]) == (200, "merged")
    assert merged.json()["mergeCommit"] == repository.tip()
    again = await client.post(f"{PULLS}/1/merge")
    assert (again.status_code, again.json()["type"]) == (409, "urn:corral:problem:pull-request-not-open")


async def test_lists_have_pages_and_states(client: Client, repository: Repository) -> None:
    for number in range(1, 4):
        await open_one(repository, f"corral/{number}", {f"{number}.py": "x = 1\n"})
    await client.post(f"{PULLS}/2/close")

    first = (await client.get(PULLS, params={"limit": 2})).json()
    rest = (await client.get(PULLS, params={"limit": 2, "cursor": first["nextCursor"]})).json()
    still_open = (await client.get(PULLS, params={"state": "open"})).json()

    assert [one["number"] for one in first["pullRequests"] + rest["pullRequests"]] == [3, 2, 1]
    assert rest["nextCursor"] is None
    assert [one["number"] for one in still_open["pullRequests"]] == [3, 1]


async def test_a_conflict_names_the_files_and_changes_nothing(client: Client, repository: Repository) -> None:
    await open_one(repository, "corral/8", {"add.py": "def add(a, b, c):\n    return a + b + c\n"})
    tip = conflict(repository)

    assert (await client.get(f"{PULLS}/1")).json()["conflicts"] == ["add.py"]
    refused = await client.post(f"{PULLS}/1/merge")

    assert (refused.status_code, refused.json()["type"]) == (409, "urn:corral:problem:merge-conflict")
    assert "add.py" in refused.json()["detail"]
    assert repository.tip() == tip
    assert (await client.get(f"{PULLS}/1")).json()["state"] == "open"


@pytest.mark.parametrize(
    ("path", "status", "slug"),
    [
        ("/v1/projects/nowhere/pulls", 404, "unknown-project"),
        ("/v1/projects/hub/pulls", 409, "on-another-forge"),
        ("/v1/projects/shop/pulls/9", 404, "pull-request-not-found"),
        ("/v1/projects/shop/pulls/0", 422, "request-invalid"),
        ("/v1/projects/gone/pulls", 404, "repository-not-found"),
    ],
)
async def test_what_is_not_there_is_told(  # noqa: PLR0917
    corral: Corral, client: Client, repository: Repository, path: str, status: int, slug: str
) -> None:
    await corral.parts.projects.add(Project(id="gone", repository=f"{repository.bare}-gone"))

    answer = await client.get(path)

    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:corral:problem:{slug}")


async def test_reading_and_merging_need_their_scopes_and_the_project(
    repository: Repository, open_client: ClientFactory, token_for: TokenFactory
) -> None:
    await open_one(repository, "corral/7", {"more.py": "MORE = 1\n"})
    reader = await open_client(token=await token_for("ann", "read"))
    elsewhere = await open_client(token=await token_for("bob", "manage", projects=["other"]))
    nobody = await open_client()

    async def answers(caller: Client) -> list[int]:
        asked: list[Any] = [await caller.get(PULLS), await caller.get(f"{PULLS}/1")]
        asked += [await caller.post(f"{PULLS}/1/{action}") for action in ("merge", "close")]
        return [answer.status_code for answer in asked]

    assert await answers(nobody) == [401] * 4
    assert await answers(reader) == [200, 200, 403, 403]
    assert await answers(elsewhere) == [404] * 4
    (listed,) = (await reader.get(PULLS)).json()["pullRequests"]
    assert listed["state"] == "open"
