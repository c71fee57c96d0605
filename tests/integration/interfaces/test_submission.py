from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from tests.integration.interfaces.samples import Client, code_generation

from corral.client import Corral
from corral.queue.job import JobState


async def test_added_job_can_be_read_back(client: Client, corral: Corral) -> None:
    added = await client.post("/v1/jobs/code-generation", json={"data": code_generation(), "options": {"priority": 1}})

    assert added.status_code == 201
    job_id = added.json()["id"]
    assert added.headers["location"] == f"/v1/jobs/code-generation/{job_id}"
    job = (await client.get(added.headers["location"])).json()
    assert (job["id"], job["state"], job["priority"]) == (job_id, "prioritized", 1)
    assert job["data"]["prompt"] == "Build auth system"
    assert job["data"]["userId"] == "local"
    assert (await corral.get_job_status("code-generation", job_id)).user_id == "local"


async def test_snake_case_is_accepted_and_written_as_camel_case(client: Client) -> None:
    data = {"task_id": "1", "user_id": "me", "prompt": "p", "project_id": "x"}
    added = await client.post("/v1/jobs/code-generation", json={"data": data, "options": {"delay_ms": 60000}})

    job = (await client.get(f"/v1/jobs/code-generation/{added.json()['id']}")).json()
    assert job["data"] == {"taskId": "1", "userId": "me", "prompt": "p", "projectId": "x"}
    assert (job["state"], job["delayMs"]) == ("delayed", 60000)


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        ("{bad", "application/json", "the body: not JSON: "),
        ("[1]", "application/json", "the body: expected a JSON object"),
        ('{"data": {}}', "application/x-www-form-urlencoded", "with Content-Type: application/json"),
    ],
)
async def test_a_body_that_is_no_object_is_told(client: Client, content: str, kind: str, said: str) -> None:
    answer = await client.post("/v1/jobs/anything", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"priority": -1}, "/options/priority"),
        ({"attempts": 0}, "/options/attempts"),
        ({"delayMs": "soon"}, "/options/delayMs"),
        ({"jobId": "7"}, "/options/jobId"),
        ({"jobId": "a:b"}, "/options/jobId"),
        ({"backoff": {"type": "random"}}, "/options/backoff/type"),
        ({"colour": "red"}, "/options/colour"),
    ],
)
async def test_wrong_option_is_named(client: Client, corral: Corral, options: dict[str, Any], field: str) -> None:
    answer = await client.post("/v1/jobs/anything", json={"data": {}, "options": options})

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:corral:problem:request-invalid"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await corral.get_queue_stats("anything")).total == 0


async def test_wrong_payload_field_is_named_and_nothing_is_added(client: Client, corral: Corral) -> None:
    answer = await client.post("/v1/jobs/code-generation", json={"data": code_generation(prompt=7, taskId="../x")})

    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "urn:corral:problem:payload-invalid")
    assert {error["field"] for error in problem["errors"]} == {"/data/prompt", "/data/taskId"}
    assert (await corral.get_queue_stats("code-generation")).total == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"data": {"x": NaN}}', b'{"data": {"x": 1e999}}', b'{"data": {"x": "\\ud800"}}', b"\xff\xfe",
     b'{"data":' + b"[" * 5000 + b"]" * 5000 + b"}"],
)  # fmt: skip
async def test_what_is_not_json_is_refused(client: Client, corral: Corral, body: Any) -> None:
    answer = await client.post("/v1/jobs/anything", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await corral.get_queue_stats("anything")).total == 0


async def test_body_over_the_limit_is_refused_however_it_is_sent(client: Client, app: FastAPI) -> None:
    app.state.corral_api.settings = app.state.corral_api.settings.model_copy(update={"request_max_bytes": 1024})

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"data": {"x": "' + b"a" * 800
        yield b"a" * 800 + b'"}}'

    declared = await client.post("/v1/jobs/anything", json={"data": {"x": "a" * 1600}})
    undeclared = await client.post("/v1/jobs/anything", content=chunks(), headers={"content-type": "application/json"})

    for answer in (declared, undeclared):
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:corral:problem:too-large")


async def test_many_jobs_are_added_in_order(client: Client) -> None:
    items = [{"n": number} for number in range(5)]
    answer = await client.post("/v1/queues/anything/jobs", json={"items": items, "options": {"priority": 0}})

    jobs = answer.json()["jobs"]
    assert answer.status_code == 201
    stored = [(await client.get(f"/v1/jobs/anything/{job['id']}")).json()["data"]["n"] for job in jobs]
    assert stored == [0, 1, 2, 3, 4]


async def test_one_bad_item_adds_none(client: Client, corral: Corral) -> None:
    items = [{"url": "a"}, {"url": 5}]
    answer = await client.post("/v1/queues/thumbnail/jobs", json={"items": items})

    assert answer.status_code == 422
    assert (await corral.get_queue_stats("thumbnail")).total == 0


async def test_key_makes_concurrent_repetitions_one_job(client: Client, corral: Corral) -> None:
    async def add() -> httpx.Response:
        return await client.post("/v1/jobs/anything", json={"data": {"n": 1}}, headers={"Idempotency-Key": "k-1"})

    answers = await asyncio.gather(*(add() for _ in range(20)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (await corral.get_queue_stats("anything")).total == 1


async def test_key_answers_the_same_when_the_job_is_gone(client: Client, corral: Corral) -> None:
    headers = {"Idempotency-Key": "k-2"}
    first = await client.post("/v1/jobs/anything", json={"data": {}}, headers=headers)
    await corral.remove_job("anything", first.json()["id"])

    again = await client.post("/v1/jobs/anything", json={"data": {}}, headers=headers)

    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert (await corral.get_queue_stats("anything")).total == 0


async def test_key_of_a_request_that_died_half_way_is_completed(client: Client, corral: Corral) -> None:
    """The process that took the key died before it added the job: the record is there, the job isn't."""
    headers = {"Idempotency-Key": "k-3"}
    first = await client.post("/v1/jobs/anything", json={"data": {}}, headers=headers)
    await corral.remove_job("anything", first.json()["id"])
    (record,) = [key async for key in corral.redis.scan_iter(f"{corral.namespace}:idempotency:*")]
    stored = str(await corral.redis.get(record))
    await corral.redis.set(record, stored.partition(', "answer"')[0] + "}", keepttl=True)

    again = await client.post("/v1/jobs/anything", json={"data": {}}, headers=headers)

    assert again.json() == first.json()
    assert "idempotency-replayed" not in again.headers
    assert (await corral.get_queue_stats("anything")).total == 1


async def test_key_used_for_another_request_is_refused(client: Client) -> None:
    headers = {"Idempotency-Key": "k-4"}
    await client.post("/v1/jobs/anything", json={"data": {"n": 1}}, headers=headers)

    other = await client.post("/v1/jobs/anything", json={"data": {"n": 2}}, headers=headers)

    assert (other.status_code, other.json()["type"]) == (422, "urn:corral:problem:idempotency-key-reused")


async def test_key_of_a_batch_adds_it_once(client: Client, corral: Corral) -> None:
    body = {"items": [{"n": 1}, {"n": 2}, {"n": 3}]}
    first = await client.post("/v1/queues/anything/jobs", json=body, headers={"Idempotency-Key": "b"})
    again = await client.post("/v1/queues/anything/jobs", json=body, headers={"Idempotency-Key": "b"})

    assert first.json() == again.json()
    assert (await corral.get_queue_stats("anything")).total == 3


async def test_every_key_in_redis_has_an_end(client: Client, corral: Corral) -> None:
    await client.post("/v1/jobs/thumbnail", json={"data": {"url": "x"}}, headers={"Idempotency-Key": "e"})

    for pattern in (f"{corral.namespace}:idempotency:*", f"{corral.namespace}:owner:*"):
        keys = [key async for key in corral.redis.scan_iter(pattern)]
        assert keys
        assert all([await corral.redis.ttl(key) > 0 for key in keys])


async def test_unknown_job_type_is_a_clear_404(client: Client) -> None:
    answer = await client.post("/v1/jobs/nope", json={"data": {}})

    assert (answer.status_code, answer.json()["type"]) == (404, "urn:corral:problem:unknown-job-type")
    assert "code-generation" in answer.json()["detail"]


async def test_waiting_states_are_listed(client: Client) -> None:
    await client.post("/v1/jobs/anything", json={"data": {}, "options": {"priority": 0}})
    await client.post("/v1/jobs/anything", json={"data": {}, "options": {"delayMs": 100000}})

    listed = (await client.get("/v1/jobs/anything", params={"state": "delayed"})).json()["jobs"]

    assert [job["state"] for job in listed] == [JobState.DELAYED]


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "application/JSON"])
async def test_short_and_long_way_add_the_same(client: Client, corral: Corral, content_type: str) -> None:
    """Requests of the usual form go round FastAPI's own solving of parameters; others don't."""
    headers = {"Content-Type": content_type}
    body = {"data": {"n": 1}, "options": {"delayMs": 60_000, "priority": 7, "attempts": 2}}

    answer = await client.post("/v1/jobs/anything", content=json.dumps(body), headers=headers)

    assert answer.status_code == 201
    status = await corral.get_job_status("anything", answer.json()["id"])
    assert answer.headers["location"] == f"/v1/jobs/anything/{status.id}"
    assert (status.data, status.priority, status.max_attempts, status.delay_ms) == (
        {"n": 1, "userId": "local"}, 7, 2, 60_000,
    )  # fmt: skip


@pytest.mark.parametrize("number", ["1e999", "-1E+999", "1" + "0" * 400, "123456789" * 30 + "e99"])
async def test_number_that_no_float_holds_is_refused(client: Client, number: str) -> None:
    body = f'{{"data": {{"n": {number}.0}}}}' if number.isdigit() else f'{{"data": {{"n": {number}}}}}'

    answer = await client.post("/v1/jobs/anything", content=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["type"]) == (422, "urn:corral:problem:request-invalid")
