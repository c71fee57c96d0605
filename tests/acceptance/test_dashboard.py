"""The dashboard in a real browser: headless Chromium, driven by Playwright, judged by axe."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.support.repositories import Repository

from corral.adapters.forge.local import LocalForge
from corral.adapters.forge.port import NewPullRequest
from corral.client import Corral
from corral.interfaces.http import create_app
from corral.interfaces.identity import TokenStore
from corral.jobs.pr_creation.description import Description
from corral.projects import Project
from corral.queue.job import Job
from corral.settings import Settings
from corral.testing import EmbeddedServer
from corral.testing.server import free_port

playwright_api = pytest.importorskip("playwright.async_api", reason="needs Playwright from PyPI")
axe_api = pytest.importorskip("axe_playwright_python.async_playwright", reason="needs axe-playwright-python from PyPI")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    # Playwright's own transports close after the loop; nothing of ours.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SCREENSHOTS = os.environ.get("CORRAL_TEST_SCREENSHOTS")
"""A folder that gets the pages as pictures, for the README."""
PULL_PAGES = ["/projects", "/projects/shop/pulls", "/projects/shop/pulls/1"]


class World:
    """A server with one worker whose job does as the test says."""

    def __init__(self, corral: Corral, url: str, token: str) -> None:
        self.corral = corral
        self.url = url
        self.token = token
        self.go = asyncio.Event()
        self.mended = False


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with EmbeddedServer() as server:
        corral = Corral(server.url, settings=Settings(_env_file=None), job_types=[])

        @corral.handler("thumbnail", attempts=1)
        async def thumbnail(job: Job[dict[str, Any]]) -> dict[str, Any]:
            await job.log("begun")
            await job.progress({"percent": 40, "stage": "scaling"})
            await made.go.wait()
            await job.log("<b>nearly</b> done")
            if job.data.get("fail") and job.attempt == 1 and not made.mended:
                raise ValueError("no such picture")
            return {"width": 3}

        await corral.connect()
        token, _ = await TokenStore(corral.redis, prefix=corral.namespace).create("boss", ["admin"])
        port = free_port()
        made = World(corral, f"http://127.0.0.1:{port}/dashboard", token)
        app = create_app(corral, workers=["thumbnail"])
        running = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
        serving = asyncio.create_task(running.serve())
        while not running.started:
            await asyncio.sleep(0.02)
        yield made
        app.state.corral_api.closing.set()
        running.should_exit = True
        made.go.set()
        await serving


@pytest.fixture
async def page(world: World) -> AsyncIterator[Any]:
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context()
        context.set_default_timeout(15_000)
        opened = await context.new_page()
        wrong: list[str] = []
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        opened.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        yield opened
        assert wrong == []
        await browser.close()


async def log_in(page: Any, world: World) -> None:
    await page.goto(f"{world.url}/")
    await page.get_by_label("API token").fill(world.token)
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Queues").wait_for()


async def picture(page: Any, name: str) -> None:
    if SCREENSHOTS:
        await page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


async def open_pull_request(world: World, folder: Path) -> Repository:
    repository = Repository(folder, {"add.py": "def add(a, b):\n    return a + b\n"})
    await world.corral.parts.projects.add(Project(id="shop", repository=str(repository.bare)))
    head = repository.commit(
        {"add.py": f"def add(*numbers):\n    return sum(numbers)  # {'x' * 300}\n"}, branch="corral/7"
    )
    body = Description(
        text=f"It adds **a thing**. {'y' * 300}\n\n- one\n- two\n\n```py\nx = 1\n```",
        task_id="7",
        user_id="ada",
        key="0" * 32,
        test_summary="All tests pass: 3 of 3.\n\n| case | time |\n|---|---|\n| add | 1 s |",
    ).body(limit=60_000)
    request = NewPullRequest(
        title="Add any number", body=body, source_branch="corral/7", target_branch="main", head=head
    )
    await LocalForge().open(str(repository.bare), request)
    return repository


async def confirm(page: Any, button: str) -> None:
    await page.get_by_role("button", name=button, exact=True).click()
    await page.get_by_role("dialog").get_by_role("button", name="Yes").click()


async def test_a_job_is_watched_cancelled_and_retried(world: World, page: Any) -> None:
    await log_in(page, world)
    await page.get_by_text("● live").wait_for()
    row = page.get_by_role("row", name="thumbnail")

    job = await world.corral.add_job("thumbnail", {"userId": "ann", "fail": True})
    await row.locator("td[data-label=Active]", has_text="1").wait_for()  # without reload
    await picture(page, "queues")

    await row.get_by_role("link").click()
    await page.get_by_role("link", name=job.id, exact=True).first.click()
    await page.locator("#log", has_text="begun").wait_for()
    await page.get_by_text("scaling").wait_for()
    await page.get_by_text("● live").wait_for()
    await picture(page, "job")
    world.go.set()
    await page.locator("#log", has_text="<b>nearly</b> done").wait_for()  # text, not markup
    await page.locator("#part-head .state.failed").wait_for()
    await page.locator("#part-outcome", has_text="no such picture").wait_for()

    world.mended = True
    await confirm(page, "Retry")
    await page.locator("#part-head .state.completed").wait_for()
    await page.locator("#part-outcome", has_text='"width": 3').wait_for()

    world.go.clear()
    second = await world.corral.add_job("thumbnail", {"userId": "ann"})
    await page.goto(f"{world.url}/jobs/thumbnail/{second.id}")
    await page.locator("#log", has_text="begun").wait_for()
    await confirm(page, "Cancel")
    await page.locator("#part-outcome", has_text="cancelled").wait_for()
    assert (await world.corral.get_job_status("thumbnail", second.id)).cancelled

    await page.get_by_role("button", name="Log out").click()
    await page.get_by_label("API token").wait_for()
    await page.goto(f"{world.url}/jobs")
    await page.get_by_label("API token").wait_for()


async def test_a_pull_request_is_read_and_merged(world: World, page: Any, tmp_path: Path) -> None:
    repository = await open_pull_request(world, tmp_path)
    before = repository.tip()
    await log_in(page, world)
    await page.get_by_role("link", name="Projects", exact=True).click()
    await page.get_by_role("link", name="Pull requests of shop").click()
    await page.get_by_role("link", name="#1 Add any number").click()
    await page.get_by_text("All tests pass: 3 of 3.").wait_for()
    await page.locator(".diff .added", has_text="sum(numbers)").wait_for()
    await picture(page, "pull-request")

    await page.get_by_role("button", name="Merge", exact=True).click()
    await page.get_by_role("dialog").get_by_role("button", name="No").click()
    assert repository.tip() == before
    await confirm(page, "Merge")
    await page.locator(".state", has_text="merged").wait_for()
    assert repository.tip() != before
    assert await page.get_by_role("button", name="Merge", exact=True).count() == 0


async def test_no_is_no_and_the_keyboard_is_enough(world: World, page: Any) -> None:
    await log_in(page, world)
    await page.goto(f"{world.url}/queues/thumbnail")
    await page.get_by_role("button", name="Pause", exact=True).focus()
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog").wait_for()
    await page.keyboard.press("Escape")
    assert not (await world.corral.get_queue_stats("thumbnail")).paused
    await page.get_by_role("button", name="Pause", exact=True).focus()
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog").get_by_role("button", name="Yes").focus()
    await page.keyboard.press("Enter")
    await page.get_by_text("This queue is paused").wait_for()
    assert (await world.corral.get_queue_stats("thumbnail")).paused


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious(world: World, page: Any, scheme: str, tmp_path: Path) -> None:
    world.go.set()
    job = await world.corral.add_job("thumbnail", {"userId": "ann", "fail": True})
    await page.emulate_media(color_scheme=scheme)
    await page.goto(f"{world.url}/login")
    await open_pull_request(world, tmp_path)
    pages = ["/login", "/", "/jobs", "/queues/thumbnail", f"/jobs/thumbnail/{job.id}", "/workers", *PULL_PAGES]
    for path in pages:
        if path == "/":
            await log_in(page, world)
        await page.goto(world.url + path)
        report = await axe_api.Axe().run(page)
        serious = [one for one in report.response["violations"] if one["impact"] in {"serious", "critical"}]
        assert serious == [], path


async def test_phone_width_needs_no_sideways_scrolling(world: World, page: Any, tmp_path: Path) -> None:
    world.go.set()
    await open_pull_request(world, tmp_path)
    job = await world.corral.add_job("thumbnail", {"userId": "ann", "long": "x" * 300})
    await page.set_viewport_size({"width": 360, "height": 740})
    await log_in(page, world)
    for path in ("/", "/jobs", "/queues/thumbnail", f"/jobs/thumbnail/{job.id}", "/workers", *PULL_PAGES):
        await page.goto(world.url + path)
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, path
