from __future__ import annotations

from typing import Any

from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory

from corral.client import Corral
from corral.interfaces.identity import Scope


def family(**changes: Any) -> dict[str, Any]:
    return {
        "jobType": "anything",
        "data": {"n": 0},
        "children": [{"jobType": "thumbnail", "data": {"url": "a"}}, {"jobType": "anything", "data": {"n": 1}}],
        **changes,
    }


async def test_parent_waits_for_its_children(client: Client) -> None:
    answer = await client.post("/v1/flows", json=family())

    added = answer.json()
    assert answer.status_code == 201
    root = (await client.get(f"/v1/jobs/anything/{added['id']}")).json()
    assert root["state"] == "waiting-children"
    assert [child["jobType"] for child in added["children"]] == ["thumbnail", "anything"]
    for child in added["children"]:
        job = (await client.get(f"/v1/jobs/{child['jobType']}/{child['id']}")).json()
        assert job["parent"].endswith(f":anything:{added['id']}")


async def test_all_jobs_of_a_flow_are_the_callers(open_client: ClientFactory, token_for: TokenFactory) -> None:
    ann = await open_client(token=await token_for("ann", Scope.SUBMIT, Scope.READ))
    bob = await open_client(token=await token_for("bob", Scope.SUBMIT, Scope.READ))
    added = (await ann.post("/v1/flows", json=family())).json()

    for job in (added, *added["children"]):
        path = f"/v1/jobs/{job['jobType']}/{job['id']}"
        assert (await ann.get(path)).status_code == 200
        assert (await bob.get(path)).status_code == 404


async def test_one_bad_child_adds_nothing(client: Client, corral: Corral) -> None:
    bad = {"jobType": "thumbnail", "data": {"url": 7}}
    answer = await client.post("/v1/flows", json=family(children=[{"jobType": "anything", "data": {}}, bad]))

    assert (answer.status_code, answer.json()["type"]) == (422, "urn:corral:problem:payload-invalid")
    assert (await corral.get_queue_stats("anything")).total == 0


async def test_key_adds_a_flow_once(client: Client, corral: Corral) -> None:
    first = await client.post("/v1/flows", json=family(), headers={"Idempotency-Key": "f"})
    again = await client.post("/v1/flows", json=family(), headers={"Idempotency-Key": "f"})

    assert first.json() == again.json()
    assert (await corral.get_queue_stats("anything")).total == 2


async def test_flow_has_a_bound(client: Client) -> None:
    wide = [{"jobType": "anything", "data": {}} for _ in range(100)]
    deep = {"jobType": "anything", "data": {}, "children": wide}
    answer = await client.post("/v1/flows", json=family(children=[deep] * 10))

    assert answer.status_code == 422
    assert "at most 1000 jobs" in answer.json()["detail"]
