"""Pull requests of the local forge over HTTP and in the dashboard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory
from tests.support.repositories import Repository

from corral.adapters.forge.local import LocalForge
from corral.adapters.forge.port import NewPullRequest
from corral.client import Corral
from corral.jobs.pr_creation.description import Description
from corral.projects import Project
from corral.wire.keys import QueueKeys

PULLS = "/v1/projects/shop/pulls"
PAGE = "/dashboard/projects/shop/pulls"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>{{7*7}}"
BODY = Description(
    text="It adds *a thing*.", task_id="7", user_id="ada", key="0" * 32, test_summary="All tests pass: 3 of 3."
).body(limit=60_000)


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


async def test_a_diff_that_is_too_large_is_left_out(
    client: Client, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.interfaces.pull_requests._DIFF_BYTES", 100)
    await open_one(repository, "corral/7", {"long.txt": "a line\n" * 100})

    one = (await client.get(f"{PULLS}/1")).json()

    assert one["diff"] is None
    assert [file["linesAdded"] for file in one["files"]] == [100]
    assert "too large to be shown" in (await client.get(f"{PAGE}/1")).text


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


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


async def test_pages_lead_from_projects_to_the_diff(client: Client, repository: Repository) -> None:
    await open_one(repository, "corral/7", {"add.py": "def add(*n):\n    return sum(n)\n"})

    projects = (await client.get("/dashboard/projects")).text
    assert f'href="{PAGE}"' in projects
    assert "hub/pulls" not in projects
    assert f'href="{PAGE}/1"' in (await client.get(PAGE, params={"state": "open"})).text
    assert f'href="{PAGE}/1"' not in (await client.get(PAGE, params={"state": "merged"})).text
    page = (await client.get(f"{PAGE}/1")).text
    assert '<span class="added">+    return sum(n)' in page
    assert "All tests pass: 3 of 3." in page
    assert page.count("data-ask") == 2


async def test_markup_in_a_pull_request_stays_text(client: Client, repository: Repository) -> None:
    await open_one(
        repository, "corral/<b>", {"<img src=x onerror=a()>.py": f"{MARKUP}\n"}, title=MARKUP,
        body=Description(text=MARKUP, task_id="7", user_id="ada", key="0" * 32, test_summary=MARKUP).body(limit=60_000),
    )  # fmt: skip

    for path in (PAGE, f"{PAGE}/1"):
        page = await client.get(path)
        assert page.status_code == 200
        for hostile in ("<script>alert", "<img src=x", "corral/<b>", "&#34;&#39;&gt;49"):
            assert hostile not in page.text, path
    assert page.text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4


async def test_merging_asks_first_and_needs_the_form_token(client: Client, repository: Repository) -> None:
    await open_one(repository, "corral/7", {"more.py": "MORE = 1\n"})
    before = repository.tip()
    form = {"csrf": csrf_of((await client.get(f"{PAGE}/1")).text)}

    foreign = await client.post(f"{PAGE}/1/merge", data={"confirmed": "yes"})
    asked = await client.post(f"{PAGE}/1/merge", data=form)
    assert (foreign.status_code, asked.status_code) == (403, 200)
    assert 'name="confirmed"' in asked.text
    assert repository.tip() == before

    done = await client.post(f"{PAGE}/1/merge", data={**form, "confirmed": "yes"})
    assert (done.status_code, done.headers["location"]) == (303, f"{PAGE}/1")
    assert repository.tip() != before
    assert "data-ask" not in (await client.get(f"{PAGE}/1")).text


async def test_one_is_closed_by_its_button(client: Client, repository: Repository) -> None:
    await open_one(repository, "corral/7", {"more.py": "MORE = 1\n"})
    form = {"csrf": csrf_of((await client.get(f"{PAGE}/1")).text), "confirmed": "yes"}

    assert (await client.post(f"{PAGE}/1/close", data=form)).status_code == 303
    assert (await client.post(f"{PAGE}/1/close", data=form)).status_code == 409
    assert '<span class="state failed">closed</span>' in (await client.get(f"{PAGE}/1")).text


async def test_a_conflict_is_shown_instead_of_the_merge_button(client: Client, repository: Repository) -> None:
    await open_one(repository, "corral/8", {"add.py": "def add(a, b, c):\n    return a + b + c\n"})
    tip = conflict(repository)

    page = (await client.get(f"{PAGE}/1")).text
    assert "these files conflict: add.py" in page
    assert page.count("data-ask") == 1
    refused = await client.post(f"{PAGE}/1/merge", data={"csrf": csrf_of(page), "confirmed": "yes"})
    assert refused.status_code == 409
    assert "add.py" in refused.text
    assert repository.tip() == tip


async def test_visitors_see_and_do_what_their_token_allows(
    repository: Repository, open_client: ClientFactory, token_for: TokenFactory
) -> None:
    await open_one(repository, "corral/7", {"more.py": "MORE = 1\n"})
    reader, elsewhere = await open_client(), await open_client()
    await reader.post("/dashboard/login", data={"token": await token_for("ann", "read")})
    await elsewhere.post("/dashboard/login", data={"token": await token_for("bob", "manage", projects=["other"])})

    page = (await reader.get(f"{PAGE}/1")).text
    assert "data-ask" not in page
    form = {"csrf": csrf_of(page), "confirmed": "yes"}
    assert (await reader.post(f"{PAGE}/1/merge", data=form)).status_code == 403
    assert "shop" not in (await elsewhere.get("/dashboard/projects")).text
    theirs = {"csrf": csrf_of((await elsewhere.get("/dashboard/projects")).text), "confirmed": "yes"}
    for answer in (await elsewhere.get(f"{PAGE}/1"), await elsewhere.post(f"{PAGE}/1/merge", data=theirs)):
        assert answer.status_code == 404
    assert (await LocalForge().show(repository.bare, 1)).state == "open"


async def test_a_job_leads_to_the_pull_request_that_it_opened(
    client: Client, corral: Corral, repository: Repository
) -> None:
    await corral.add_job("anything", {"projectId": "shop"}, job_id="job", priority=0)
    keys = QueueKeys(corral.prefix, "anything")
    result = {"number": 1, "url": f"{repository.bare}#1", "head": "a", "base": "b", "sourceBranch": "s",
              "targetBranch": "main", "state": "open", "created": True, "filesChanged": 1, "linesAdded": 2,
              "linesRemoved": 3}  # fmt: skip
    await corral.redis.hset(keys.job("job"), mapping={"returnvalue": json.dumps(result), "finishedOn": "1700000000000"})
    await corral.redis.lrem(keys.wait, 0, "job")
    await corral.redis.zadd(keys.completed, {"job": 1700000000000})

    assert f'<a href="{PAGE}/1">' in (await client.get("/dashboard/jobs/anything/job")).text
