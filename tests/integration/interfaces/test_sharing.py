"""Queues whose users take turns, over HTTP and on the dashboard."""

from __future__ import annotations

import pytest
from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory

from corral import PerUser
from corral.client import Corral


@pytest.fixture
async def shared(corral: Corral) -> str:
    corral.declare("shared", per_user=PerUser(max_waiting=2, max_active=1))
    return "shared"


async def test_a_job_too_many_is_a_problem_of_its_own(
    shared: str, open_client: ClientFactory, token_for: TokenFactory
) -> None:
    ada = await open_client(token=await token_for("ada", "submit", "read"))
    bob = await open_client(token=await token_for("bob", "submit", "read"))
    for _ in range(2):
        assert (await ada.post(f"/v1/jobs/{shared}", json={"data": {}})).status_code == 201
    refused = await ada.post(f"/v1/jobs/{shared}", json={"data": {}})
    assert refused.status_code == 429
    assert refused.json()["type"].endswith("too-many-jobs")
    assert "'ada'" in refused.json()["detail"]
    assert (await bob.post(f"/v1/jobs/{shared}", json={"data": {}})).status_code == 201
    assert (await bob.get(f"/v1/queues/{shared}/users")).status_code == 403


async def test_how_a_queue_stands_by_user(shared: str, client: Client, corral: Corral) -> None:
    await corral.add_jobs(shared, [{"userId": "ada"}, {"userId": "ada"}, {"userId": "<b>bob</b>"}])
    answer = await client.get(f"/v1/queues/{shared}/users")
    assert answer.json() == {
        "users": [
            {"userId": "ada", "waiting": 1, "active": 0, "held": 1},
            {"userId": "<b>bob</b>", "waiting": 1, "active": 0, "held": 0},
        ]
    }
    page = (await client.get(f"/dashboard/queues/{shared}")).text
    assert "Held back" in page
    assert "&lt;b&gt;bob&lt;/b&gt;" in page
    assert "Held back" not in (await client.get("/dashboard/queues/code-generation")).text
