"""Who sees the stack of a worker's error."""

from __future__ import annotations

import json

import pytest
from tests.integration.interfaces.samples import ClientFactory, TokenFactory

from corral.client import Corral
from corral.queue.retry import trace_of
from corral.wire.keys import QueueKeys


def fail() -> None:
    raise ValueError("no slot free")


@pytest.mark.parametrize(
    ("scopes", "whole"),
    [(("read",), False), (("read", "submit"), False), (("manage",), True), (("admin",), True)],
)
async def test_a_workers_stack_is_for_operators(
    corral: Corral,
    open_client: ClientFactory,
    token_for: TokenFactory,
    scopes: tuple[str, ...],
    whole: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    await corral.add_job("anything", {"userId": "ada"}, job_id="job")
    keys = QueueKeys(corral.prefix, "anything")
    with pytest.raises(ValueError, match="slot") as raised:
        fail()
    ours = trace_of(raised.value, attempt=1)
    theirs = "Error: from Node\n    at /srv/worker/x.js:1"
    reason = "ValueError: no slot free"
    await corral.redis.hset(keys.job("job"), mapping={"stacktrace": json.dumps([ours, theirs]), "failedReason": reason})
    await corral.redis.lrem(keys.wait, 0, "job")
    await corral.redis.zadd(keys.failed, {"job": 1700000000000})
    token = await token_for("ada", *scopes)
    client, browser = await open_client(token=token), await open_client()
    await browser.post("/dashboard/login", data={"token": token})

    told = {}
    for path in ("", "/result"):
        answer = await client.get(f"/v1/jobs/anything/job{path}")
        told[path] = answer.json()
    events = (await client.get("/v1/jobs/anything/job/events")).text
    page = (await browser.get("/dashboard/jobs/anything/job")).text

    assert [one["error"] for one in told.values()] == [reason] * 2
    for one in told.values():
        first, second = one["stacktrace"]
        assert first.startswith("[attempt 1 failed at ")
        assert first.rstrip().endswith("\nValueError: no slot free")
        assert second.startswith("Error: from Node")
        assert ([first, second] == [ours, theirs]) is whole
    for shown in (json.dumps(told), events, page):
        assert "no slot free" in shown
        assert (__file__ in shown) is whole
        assert ("/srv/worker" in shown) is whole
    assert await corral.redis.hget(keys.job("job"), "stacktrace") == json.dumps([ours, theirs])
