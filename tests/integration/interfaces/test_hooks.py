"""GitHub's webhook: what a push sets off, and what nobody else can."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError
from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory
from tests.support.repositories import Repository

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.port import IndexStore
from corral.client import Corral
from corral.jobs.codebase_indexing.building import Built, ThreadBuilder
from corral.projects import Project
from corral.settings import Settings

SECRET = "a secret of the webhook"
ADDRESS = "https://github.com/acme/shop"


def push(ref: str = "refs/heads/main", **more: Any) -> dict[str, Any]:
    """What GitHub sends, cut to what matters and some of what doesn't."""
    repository = {"id": 1, "full_name": "acme/shop", "clone_url": f"{ADDRESS}.git", "private": False}
    return {"ref": ref, "before": "0" * 40, "after": "1" * 40, "deleted": False, "repository": repository, **more}


async def send(
    client: Client, message: Any, *, event: str = "push", secret: str = SECRET, signature: str | None = None
) -> httpx.Response:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    signed = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": event, "Content-Type": "application/json"}
    if signature != "":
        headers["X-Hub-Signature-256"] = signature or signed
    return await client.post("/v1/hooks/github", content=body, headers=headers)


def set_up(app: FastAPI, corral: Corral, **more: Any) -> None:
    settings = corral.settings.model_copy(update={"github_webhook_secret": SecretStr(SECRET), **more})
    corral.settings = app.state.corral_api.settings = settings


@pytest.fixture
async def listening(app: FastAPI, corral: Corral) -> Corral:
    set_up(app, corral)
    for project_id, repository in (("shop", ADDRESS), ("shop-2", f"{ADDRESS}.git"), ("other", f"{ADDRESS}-other")):
        await corral.parts.projects.add(Project(id=project_id, repository=repository))
    return corral


async def added(corral: Corral) -> list[tuple[str, str]]:
    jobs = await corral.list_jobs("codebase-indexing")
    return sorted((job.data["projectId"], job.data["branch"]) for job in jobs)


class Holding(ThreadBuilder):
    """Says when it begins, and begins when it may."""

    def __init__(self, store: IndexStore) -> None:
        super().__init__(store, StaticEmbedder())
        self.begun = asyncio.Event()
        self.may = asyncio.Event()

    async def build(self, *given: Any) -> Built:
        self.begun.set()
        await self.may.wait()
        return await super().build(*given)

    async def close(self) -> None:
        """Nothing."""


async def test_a_push_indexes_the_branch_of_each_project_with_that_repository(
    client: Client, listening: Corral
) -> None:
    answer = await send(client, push("refs/heads/feature/x"))
    assert answer.status_code == 202
    jobs = answer.json()["jobs"]
    assert [(job["projectId"], job["branch"]) for job in jobs] == [
        ("shop", "feature/x"),
        ("shop-2", "feature/x"),
    ]
    assert await added(listening) == [("shop", "feature/x"), ("shop-2", "feature/x")]

    again = await send(client, push("refs/heads/feature/x"))
    assert again.json() == answer.json(), "one that waits will see this push too"
    assert len(await added(listening)) == 2
    await send(client, push("refs/heads/main"))
    assert len(await added(listening)) == 4


async def test_a_deleted_branch_is_cleaned_up_after_by_the_default_branchs_job(
    client: Client, listening: Corral
) -> None:
    answer = await send(client, push("refs/heads/gone", deleted=True, after="0" * 40))
    assert [job["branch"] for job in answer.json()["jobs"]] == ["main", "main"]


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"zen": "Speak like a human."}, "ping"),
        ({"action": "opened"}, "pull_request"),
        (push("refs/tags/v1"), "push"),
        (push(repository={"clone_url": "https://github.com/acme/unknown.git"}), "push"),
        (push(repository={"clone_url": "https://evil.example/acme/shop.git"}), "push"),
    ],
)
async def test_other_messages_are_taken_and_lead_to_nothing(
    client: Client, listening: Corral, message: Any, event: str
) -> None:
    answer = await send(client, message, event=event)
    assert (answer.status_code, answer.json()) == (202, {"jobs": []})
    assert await added(listening) == []


@pytest.mark.parametrize(
    ("message", "signature", "secret"),
    [
        (push(), "", SECRET),
        (push(), None, "another secret, wrong"),
        (push(), "sha256=", SECRET),
        (push(), "sha1=" + "0" * 40, SECRET),
        (push(), "sha256=" + "0" * 64, SECRET),
        (b"not even JSON", "sha256=" + "0" * 64, SECRET),
    ],
)
async def test_without_the_secret_nothing_is_done(
    client: Client, listening: Corral, message: Any, signature: str | None, secret: str
) -> None:
    answer = await send(client, message, signature=signature, secret=secret)
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:corral:problem:not-authenticated")
    assert SECRET not in answer.text
    assert await added(listening) == []


async def test_a_changed_body_has_another_signature(client: Client, listening: Corral) -> None:
    good = json.dumps(push()).encode()
    signature = "sha256=" + hmac.new(SECRET.encode(), good, hashlib.sha256).hexdigest()
    assert (await send(client, good.replace(b"main", b"evil"), signature=signature)).status_code == 401
    assert (await send(client, good, signature=signature)).status_code == 202
    assert await added(listening) == [("shop", "main"), ("shop-2", "main")]


@pytest.mark.parametrize(
    "message",
    [b"payload=%7B%7D", b"[]", b"{}", b'{"ref": 1}', push("refs/heads/" + "x" * 5000), push("refs/heads/")],
)
async def test_what_is_no_push_is_said_to_be_none(client: Client, listening: Corral, message: Any) -> None:
    answer = await send(client, message)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:corral:problem:payload-invalid")
    assert await added(listening) == []


async def test_a_message_has_a_bound(client: Client, app: FastAPI, corral: Corral) -> None:
    set_up(app, corral, request_max_bytes=2000)
    assert (await send(client, push(more="x" * 3000))).status_code == 413


async def test_without_the_setting_there_is_no_such_endpoint(client: Client, corral: Corral) -> None:
    assert (await send(client, push(), secret="")).status_code == 404
    for weak in ("", "short"):
        with pytest.raises(ValidationError, match="16"):
            Settings(_env_file=None, github_webhook_secret=weak)


async def test_a_secret_opens_nothing_else(
    open_client: ClientFactory, token_for: TokenFactory, listening: Corral
) -> None:
    await token_for("ann", "admin")
    nobody = await open_client()
    assert (await send(nobody, push())).status_code == 202
    assert (await nobody.get("/v1/projects")).status_code == 401


async def test_what_is_pushed_while_a_job_runs_is_found_in_the_end(
    client: Client, app: FastAPI, corral: Corral, tmp_path: Path
) -> None:
    set_up(app, corral)
    repository = Repository(tmp_path / "forge", {"src/add.py": "def add_numbers(a, b): return a + b\n"})
    await corral.parts.projects.add(Project(id="shop", repository=str(repository.bare)))
    message = push(repository={"clone_url": str(repository.bare)})
    builder = Holding(corral.parts.index_store)
    vars(corral.parts)["index_builder"] = builder
    (first,) = (await send(client, message)).json()["jobs"]
    workers = await corral.start_workers(["codebase-indexing"])
    try:
        await builder.begun.wait()  # it has asked the forge for the branch's tip
        tip = repository.commit({"src/sub.py": "def subtract_numbers(a, b): return a - b\n"})
        for _ in range(3):
            assert (await send(client, message)).status_code == 202
        builder.may.set()
        await corral.wait_for_result(("codebase-indexing", first["jobId"]), timeout=timedelta(minutes=1))
        (second,) = [job.id for job in await corral.list_jobs("codebase-indexing") if job.id != first["jobId"]]
        result = await corral.wait_for_result(("codebase-indexing", second), timeout=timedelta(minutes=1))
        assert result.commit == tip
        hits = await corral.parts.code_search.search("shop", "subtract numbers")
        assert hits[0].path == "src/sub.py"
    finally:
        builder.may.set()
        await workers.stop()
