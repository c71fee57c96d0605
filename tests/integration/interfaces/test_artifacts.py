"""Files that a test run left, over HTTP and by the Python API."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory

from corral.client import Corral
from corral.errors import ArtifactNotFound
from corral.jobs.test_execution.artifacts import FoundArtifact
from corral.jobs.test_execution.report import Artifact, TestReport
from corral.wire.keys import QueueKeys

PAGE = b"<script>alert(document.cookie)</script>"
DIGEST = hashlib.sha256(PAGE).hexdigest()
NAME = f"{DIGEST}.html"
PLACE = f"/v1/jobs/test-execution/job/artifacts/{NAME}"


@pytest.fixture
async def artifact(corral: Corral) -> Artifact:
    """One that a completed job of Ada's has left."""
    payload = {"taskId": "t", "userId": "ada", "projectId": "demo", "testCommand": "pytest"}
    await corral.add_job("test-execution", payload, job_id="job")
    kept = Artifact(path='reports/a "b".html', size_bytes=len(PAGE), sha256=DIGEST, stored_as=NAME)
    report = TestReport(passed=True, runner="pytest", command="pytest", commit="0" * 40, artifacts=(kept,))
    keys = QueueKeys(corral.prefix, "test-execution")
    await corral.redis.lrem(keys.wait, 0, "job")
    await corral.redis.zadd(keys.completed, {"job": 1_700_000_000_000})
    result: dict[Any, Any] = {"returnvalue": report.model_dump_json(by_alias=True), "finishedOn": "1700000000000"}
    await corral.redis.hset(keys.job("job"), mapping=result)
    await corral.parts.artifacts.put("demo", [FoundArtifact(kept, PAGE)])
    return kept


async def test_it_comes_as_a_download_whatever_it_is(client: Client, artifact: Artifact) -> None:
    answer = await client.get(PLACE)
    assert (answer.status_code, answer.content) == (200, PAGE), artifact
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''a%20%22b%22.html"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


async def test_only_who_may_see_the_job_may_have_it(
    open_client: ClientFactory, token_for: TokenFactory, artifact: Artifact
) -> None:
    ada = await open_client(token=await token_for("ada", "read"), peer="192.0.2.1")
    bob = await open_client(token=await token_for("bob", "read"), peer="192.0.2.1")
    nobody = await open_client(peer="192.0.2.1")
    assert (await ada.get(PLACE)).status_code == 200, artifact
    assert (await bob.get(PLACE)).status_code == 404
    assert (await nobody.get(PLACE)).status_code == 401


async def test_what_is_not_there(client: Client, corral: Corral, artifact: Artifact) -> None:
    other = await client.get(PLACE.replace(NAME, "0" * 64))
    assert (other.status_code, other.json()["type"].rpartition(":")[2]) == (404, "artifact-not-found")
    assert (await client.get(PLACE.replace(NAME, "..%2f..%2fetc%2fpasswd"))).status_code in (404, 422)
    assert (await corral.get_artifact("test-execution", "job", NAME)).content == PAGE, artifact
    with pytest.raises(ArtifactNotFound):
        await corral.get_artifact("test-execution", "job", "x")
