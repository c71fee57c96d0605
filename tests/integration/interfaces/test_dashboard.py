"""The dashboard as a browser without script sees it: logins, forms, and what is done with hostile job data."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import httpx2 as httpx
import pytest
from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory

from corral import pipeline
from corral.client import Corral
from corral.interfaces.dashboard import presenting
from corral.interfaces.identity import TokenStore
from corral.queue.flow import Flow
from corral.queue.job import Job
from corral.queue.retry import failed_attempt, trace_of
from corral.wire.keys import QueueKeys

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>{{7*7}}"
PAGES = ["/", "/jobs", "/queues/anything", "/jobs/anything/job", "/workers", "/projects"]


class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


async def log_in(client: Client, token: str) -> httpx.Response:
    return await client.post("/dashboard/login", data={"token": token})


def csrf_of(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found
    return found[1]


@pytest.mark.parametrize("path", PAGES)
async def test_pages_have_a_strict_policy_and_nothing_inline(client: Client, corral: Corral, path: str) -> None:
    await corral.add_job("anything", {"n": 1}, job_id="job")

    page = await client.get(f"/dashboard{path}")

    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    for tag, attributes in Elements(page.text).found:
        assert tag != "script" or attributes.get("src", "").startswith("/dashboard/static/")  # type: ignore[union-attr]
        assert tag != "style"
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href"):
            assert not (attributes.get(name) or "").startswith(("http:", "https:", "//"))


async def test_markup_in_every_field_of_a_job_stays_text(client: Client, corral: Corral) -> None:
    await corral.add_job("anything", {MARKUP: MARKUP, "userId": MARKUP, "projectId": MARKUP}, job_id="job")
    keys = QueueKeys(corral.prefix, "anything")
    await corral.redis.rpush(keys.logs("job"), MARKUP, "</pre>" + MARKUP)
    hostile: Any = {
        "failedReason": MARKUP,
        "stacktrace": json.dumps([MARKUP]),
        "progress": json.dumps({"percent": 50, "stage": MARKUP}),
        "pb": MARKUP,
        "returnvalue": json.dumps({"url": "javascript:alert(1)", MARKUP: MARKUP}),
        "processedOn": "1700000000000",
        "finishedOn": "1700000001000",
        "rjk": MARKUP,
    }
    await corral.redis.hset(keys.job("job"), mapping=hostile)
    await corral.redis.zrem(keys.prioritized, "job")
    await corral.redis.zadd(keys.completed, {"job": 1700000001000})

    for path in (*PAGES, f"/jobs?text={MARKUP}&user={MARKUP}", "/queues/anything?state=completed"):
        page = await client.get(f"/dashboard{path}")
        assert page.status_code == 200, path
        for tag, attributes in Elements(page.text).found:
            assert tag != "img" or attributes.get("alt") == "", path
            assert tag != "script" or "src" in attributes, path
            assert not any(name.startswith("on") for name in attributes), path
            assert not (attributes.get("href") or "").startswith("javascript:"), path
        assert "&#34;&#39;&gt;49" not in page.text, path
    whole = (await client.get("/dashboard/jobs/anything/job")).text
    assert whole.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+new\n", '<span class="added">+new'),
        ({"passed": False, "runner": "pytest", "command": "c", "commit": "a", "total": 1, "failed": 1,
          "cases": [{"name": "test_a", "outcome": "failed", "message": "boom"}]}, '<td data-label="Message">boom'),
        ({"number": 7, "url": "https://forge.example/pull/7", "head": "a", "base": "b", "sourceBranch": "s",
          "targetBranch": "main", "state": "open", "created": True, "filesChanged": 1, "linesAdded": 2,
          "linesRemoved": 3}, 'href="https://forge.example/pull/7"'),
        ({"projectId": "p", "commit": "c", "files": 12, "chunks": 3456, "languages": {"python": 12}, "reused": 0,
          "seconds": 1.5, "embedder": "e"}, "<dd>3,456</dd>"),
        ({"cases": "not what it looks like"}, "not what it looks like"),
    ],
)  # fmt: skip
async def test_result_is_shown_as_what_it_is(client: Client, corral: Corral, result: object, shown: str) -> None:
    await corral.add_job("anything", {}, job_id="job", priority=0)
    keys = QueueKeys(corral.prefix, "anything")
    await corral.redis.hset(keys.job("job"), mapping={"returnvalue": json.dumps(result), "finishedOn": "1700000000000"})
    await corral.redis.lrem(keys.wait, 0, "job")
    await corral.redis.zadd(keys.completed, {"job": 1700000000000})

    page = await client.get("/dashboard/jobs/anything/job")

    assert page.status_code == 200
    assert shown in page.text


async def test_flow_is_shown_from_each_of_its_jobs(client: Client, corral: Corral) -> None:
    child = Flow(job_type="thumbnail", data={"url": "x"}, options={"job_id": "leaf"})
    await corral.add_flow(Flow(job_type="anything", data={}, children=[child], options={"job_id": "root"}))

    for path in ("/jobs/anything/root", "/jobs/thumbnail/leaf"):
        page = (await client.get(f"/dashboard{path}")).text
        assert 'class="depth-0"' in page
        assert 'class="depth-1"' in page
        assert 'href="/dashboard/jobs/thumbnail/leaf"' in page


async def test_timeline_says_when_each_attempt_failed(client: Client, corral: Corral) -> None:
    await corral.add_job("anything", {"n": 1}, job_id="job")
    ours, theirs = trace_of(ValueError("no slot free"), attempt=2), "Error: from Node\n    at x.js:1"
    keys = QueueKeys(corral.prefix, "anything")
    await corral.redis.hset(keys.job("job"), "stacktrace", json.dumps([ours, theirs]))
    at = failed_attempt(ours).at

    page = (await client.get("/dashboard/jobs/anything/job")).text

    assert at is not None
    assert f'<strong>Attempt 2 failed</strong> <time datetime="{at.isoformat()}">' in page
    assert "ValueError: no slot free" in page
    assert "<strong>Attempt 2 failed</strong><span" in page, "Node's has a number by its place, and no time"
    assert "[attempt 2" not in page


@pytest.mark.parametrize(
    ("steps", "states"),
    [
        ([{"jobType": "codebase-indexing", "jobId": "i", "state": "completed", "seconds": 1.5},
          {"jobType": "code-generation", "jobId": "g", "state": "running"}],
         ["completed", "running", "pending", "pending"]),
        ([], ["pending"] * 4),
        ([{"jobType": MARKUP}], ["pending"] * 4),
    ],
)  # fmt: skip
async def test_pipeline_is_drawn_with_all_its_steps(
    client: Client, corral: Corral, steps: list[Any], states: list[str]
) -> None:
    pipeline.register(corral)
    data = {"taskId": "1", "userId": "ann", "projectId": "p", "prompt": "x"}
    await corral.add_job("pipeline", data, job_id="whole")
    progress = json.dumps({"percent": 20, "stage": "x", "steps": steps})
    await corral.redis.hset(QueueKeys(corral.prefix, "pipeline").job("whole"), "progress", progress)

    page = (await client.get("/dashboard/jobs/pipeline/whole")).text

    chain = page[page.index('<ol class="chain">') : page.index("</ol>", page.index('<ol class="chain">'))]
    assert re.findall(r'class="state [^"]*">([a-z]+)<', chain) == states
    assert re.findall(r'class="name">([a-z-]+)<', chain) == list(pipeline.STEPS)


async def test_workers_tell_how_far_their_jobs_are(client: Client, corral: Corral) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    @corral.handler("slow")
    async def slow(job: Job[dict[str, Any]]) -> None:
        await job.progress({"percent": 40, "stage": "halving"})
        reached.set()
        await go.wait()

    await corral.start_workers(["slow"])
    await corral.add_job("slow", {"userId": "ann"}, job_id="long")
    await asyncio.wait_for(reached.wait(), 20)

    page = (await client.get("/dashboard/workers")).text
    go.set()

    assert 'href="/dashboard/jobs/slow/long">long</a>' in page
    assert "40 %, halving, for " in page


async def test_login_and_logout(open_client: ClientFactory, token_for: TokenFactory) -> None:
    token = await token_for("ann", "read")
    browser = await open_client()

    asked = await browser.get("/dashboard/jobs?state=failed")
    assert (asked.status_code, asked.headers["location"]) == (303, "/dashboard/login?next=%2Fjobs%3Fstate%3Dfailed")
    wrong = await log_in(browser, "corral_0123456789abcdef_" + "A" * 43)
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers
    entered = await log_in(browser, token)
    assert entered.status_code == 303
    cookie = entered.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/dashboard"))
    assert "Secure" not in cookie
    page = await browser.get("/dashboard/")
    assert page.status_code == 200
    assert token not in page.text

    stolen = dict(browser.cookies)
    left = await browser.post("/dashboard/logout", data={"csrf": csrf_of(page)})
    assert left.status_code == 303
    again = await open_client()
    again.cookies.update(stolen)
    assert (await again.get("/dashboard/")).status_code == 303


async def test_cookie_is_secure_behind_tls(open_client: ClientFactory, token_for: TokenFactory) -> None:
    token = await token_for("ann", "read")
    browser = await open_client(base="https://localhost")

    assert "Secure" in (await log_in(browser, token)).headers["set-cookie"]


async def test_revoked_token_ends_its_logins(corral: Corral, open_client: ClientFactory) -> None:
    store = TokenStore(corral.redis, prefix=corral.namespace)
    token, info = await store.create("ann", ["read"])
    browser = await open_client()
    await log_in(browser, token)
    assert (await browser.get("/dashboard/")).status_code == 200

    await store.revoke(info.id)

    assert (await browser.get("/dashboard/")).status_code == 303


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
async def test_login_never_leads_to_another_site(
    open_client: ClientFactory, token_for: TokenFactory, target: str
) -> None:
    token = await token_for("ann", "read")
    browser = await open_client()

    entered = await browser.post("/dashboard/login", params={"next": target}, data={"token": token})

    assert entered.headers["location"] == "/dashboard/"


async def test_forms_of_other_sites_do_nothing(
    corral: Corral, open_client: ClientFactory, token_for: TokenFactory
) -> None:
    browser = await open_client()
    await log_in(browser, await token_for("boss", "manage"))
    page = await browser.get("/dashboard/queues/anything")
    form = {"csrf": csrf_of(page), "confirmed": "yes"}

    without = await browser.post("/dashboard/queues/anything/pause", data={"confirmed": "yes"})
    foreign = await browser.post(
        "/dashboard/queues/anything/pause", data=form, headers={"Origin": "https://evil.example"}
    )
    assert (without.status_code, foreign.status_code) == (403, 403)
    assert not (await corral.get_queue_stats("anything")).paused

    own = await browser.post("/dashboard/queues/anything/pause", data=form, headers={"Origin": "http://localhost"})
    assert own.status_code == 303
    assert (await corral.get_queue_stats("anything")).paused


async def test_action_asks_first(client: Client, corral: Corral) -> None:
    await corral.add_job("anything", {}, job_id="job", delay=timedelta(hours=1))
    form = {"csrf": csrf_of(await client.get("/dashboard/jobs/anything/job"))}

    asked = await client.post("/dashboard/jobs/anything/job/promote", data=form)
    assert asked.status_code == 200
    assert 'name="confirmed"' in asked.text
    assert (await corral.get_job_status("anything", "job")).state == "delayed"

    done = await client.post("/dashboard/jobs/anything/job/promote", data={**form, "confirmed": "yes"})
    assert done.headers["location"] == "/dashboard/jobs/anything/job"
    assert (await corral.get_job_status("anything", "job")).state == "prioritized"


async def test_reader_sees_own_jobs_and_has_no_buttons(
    corral: Corral, open_client: ClientFactory, token_for: TokenFactory
) -> None:
    await corral.add_job("anything", {"userId": "ann"}, job_id="mine")
    await corral.add_job("anything", {"userId": "bob"}, job_id="theirs")
    browser = await open_client()
    await log_in(browser, await token_for("ann", "read"))

    listed = (await browser.get("/dashboard/queues/anything")).text
    assert "/jobs/anything/mine" in listed
    assert "/jobs/anything/theirs" not in listed
    assert (await browser.get("/dashboard/jobs/anything/theirs")).status_code == 404
    page = await browser.get("/dashboard/jobs/anything/mine")
    assert "data-ask" not in page.text
    form = {"csrf": csrf_of(page), "confirmed": "yes"}
    for path in ("jobs/anything/mine/cancel", "queues/anything/pause"):
        assert (await browser.post(f"/dashboard/{path}", data=form)).status_code == 403


async def test_static_files_are_the_known_ones(client: Client) -> None:
    assert (await client.get("/dashboard/static/app.js")).status_code == 200
    assert (await client.get("/dashboard/static/..%2Fdoor.py")).status_code == 404
    assert (await client.get("/dashboard/static/nope.js")).status_code == 404


@pytest.mark.slow
async def test_pages_are_quick_with_a_hundred_thousand_jobs(client: Client, corral: Corral) -> None:
    for _ in range(20):
        await corral.add_jobs("anything", [{"userId": f"user-{n % 7}", "n": n} for n in range(5_000)])
    await corral.add_job("anything", {"needle": "x"}, job_id="job")
    for path in (*PAGES, "/queues/anything?state=waiting&cursor=90000", "/jobs?type=anything&text=needle"):
        best = 9.0
        for _ in range(3):  # the machine may be busy with something else
            begun = time.perf_counter()
            assert (await client.get(f"/dashboard{path}")).status_code == 200
            best = min(best, time.perf_counter() - begun)
        assert best < 0.2, path


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (0.0421, "42 ms"), (3.21, "3.2 s"), (250, "4 min 10 s"),
     (7500, "2 h 5 min"), (273_600, "3 d 4 h")],
)  # fmt: skip
def test_durations_are_for_people(seconds: float | None, shown: str) -> None:
    assert presenting.duration(seconds) == shown


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "//x", "ftp://x/y", "http:///x", "data:text/html,x", 7, "http://[x"]
)
def test_unsafe_links_are_none(url: object) -> None:
    assert presenting.safe_url(url) is None
