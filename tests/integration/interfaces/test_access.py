"""Every endpoint as nobody, as another user, as reader, as submitter, as manager, as admin."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import httpx2 as httpx
import jwt
import pytest
from fastapi import FastAPI
from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory, code_generation

from corral.client import Corral
from corral.errors import ConfigurationError, NotAuthenticated
from corral.interfaces.http import create_app
from corral.interfaces.identity import Authenticator, TokenStore
from corral.interfaces.jwts import JwtVerifier
from corral.projects import Project

SECRET = "a secret of thirty-two bytes or more"
READ, SUBMIT, MANAGE, ADMIN = "read", "submit", "manage", "admin"
#: Method, path, body, the scope that it needs. ``{own}`` is a delayed job of the user "ann".
ENDPOINTS = [
    ("POST", "/v1/jobs/anything", {"data": {}}, SUBMIT),
    ("POST", "/v1/queues/anything/jobs", {"items": [{}]}, SUBMIT),
    ("POST", "/v1/flows", {"jobType": "anything", "data": {}}, SUBMIT),
    ("GET", "/v1/jobs/anything", None, READ),
    ("GET", "/v1/jobs/anything/{own}", None, READ),
    ("GET", "/v1/jobs/anything/{own}/result?timeout_s=0", None, READ),
    ("GET", "/v1/jobs/anything/{own}/logs", None, READ),
    ("GET", f"/v1/jobs/anything/{{own}}/artifacts/{'0' * 64}.png", None, READ),
    ("POST", "/v1/jobs/anything/{own}/promote", None, SUBMIT),
    ("POST", "/v1/jobs/anything/{own}/cancel", {}, SUBMIT),
    ("GET", "/v1/job-types", None, READ),
    ("GET", "/v1/queues", None, READ),
    ("GET", "/v1/queues/anything", None, READ),
    ("POST", "/v1/queues/anything/pause", None, MANAGE),
    ("POST", "/v1/queues/anything/resume", None, MANAGE),
    ("POST", "/v1/queues/anything/clean", {}, MANAGE),
    ("POST", "/v1/queues/anything/drain", {}, MANAGE),
    ("POST", "/v1/queues/anything/retry", {}, MANAGE),
    ("GET", "/v1/queues/anything/workers", None, MANAGE),
    ("GET", "/v1/queues/anything/users", None, MANAGE),
    ("GET", "/v1/queues/anything/schedules", None, MANAGE),
    ("GET", "/v1/me", None, READ),
    ("GET", "/v1/tokens", None, ADMIN),
    ("POST", "/v1/tokens", {"userId": "x", "scopes": ["read"]}, ADMIN),
    ("DELETE", "/v1/tokens/0123456789abcdef", None, ADMIN),
    ("DELETE", "/v1/jobs/anything/{own}", None, SUBMIT),
    ("POST", "/v1/jobs/anything/{own}/retry", None, SUBMIT),
    ("GET", "/v1/jobs/anything/{own}/events", None, READ),
    ("GET", "/v1/queues/anything/events", None, READ),
    ("PUT", "/v1/queues/anything/schedules/nightly", {"everyMs": 60_000, "data": {}}, MANAGE),
    ("DELETE", "/v1/queues/anything/schedules/nightly", None, MANAGE),
    ("GET", "/v1/projects", None, READ),
    ("POST", "/v1/projects", {"id": "new", "repository": "/srv/new.git"}, MANAGE),
    ("GET", "/v1/projects/site", None, READ),
    ("DELETE", "/v1/projects/site", None, MANAGE),
    ("GET", "/v1/projects/site/search?q=x", None, READ),
    ("GET", "/v1/projects/site/neighbourhood?path=x.py", None, READ),
    ("GET", "/v1/projects/site/pulls", None, READ),
    ("GET", "/v1/projects/site/pulls/1", None, READ),
    ("POST", "/v1/projects/site/pulls/1/merge", None, MANAGE),
    ("POST", "/v1/projects/site/pulls/1/close", None, MANAGE),
    ("GET", "/metrics", None, READ),
]
#: What a caller who may is told, where that isn't a success: there is no such token, schedule, repository, file or
#: index, and a job that waits can't be tried again.
OTHERWISE = {
    ("DELETE", "/v1/tokens/0123456789abcdef"): "token-not-found",
    ("DELETE", "/v1/queues/anything/schedules/nightly"): "job-not-found",
    ("POST", "/v1/jobs/anything/{own}/retry"): "job-state-conflict",
    ("GET", f"/v1/jobs/anything/{{own}}/artifacts/{'0' * 64}.png"): "artifact-not-found",
    ("GET", "/v1/projects/site/search?q=x"): "not-indexed",
    ("GET", "/v1/projects/site/neighbourhood?path=x.py"): "not-indexed",
    ("GET", "/v1/projects/site/pulls"): "repository-not-found",
    ("GET", "/v1/projects/site/pulls/1"): "repository-not-found",
    ("POST", "/v1/projects/site/pulls/1/merge"): "repository-not-found",
    ("POST", "/v1/projects/site/pulls/1/close"): "repository-not-found",
}
GRANTS = {
    READ: {READ},
    SUBMIT: {SUBMIT},
    MANAGE: {READ, MANAGE},
    ADMIN: {READ, SUBMIT, MANAGE, ADMIN},
}


async def own_job(corral: Corral, user: str = "ann", **options: Any) -> str:
    job = await corral.add_job("anything", {"userId": user}, delay=timedelta(hours=1), **options)
    return job.id


@pytest.mark.parametrize(("method", "path", "body", "needs"), ENDPOINTS, ids=str)
async def test_scopes(  # noqa: PLR0917
    app: FastAPI,
    corral: Corral,
    open_client: ClientFactory,
    token_for: TokenFactory,
    method: str,
    path: str,
    body: Any,
    needs: str,
) -> None:
    nobody = await open_client()
    await token_for("somebody", ADMIN)
    await corral.parts.projects.add(Project.model_validate({"id": "site", "repository": "/nowhere/site.git"}))
    otherwise = OTHERWISE.get((method, path), "")
    path = path.replace("{own}", await own_job(corral))
    if path.endswith("/events"):
        app.state.corral_api.closing.set()  # or the stream would have no end

    assert (await nobody.request(method, path, json=body)).status_code == 401
    stranger = await open_client(token="corral_0123456789abcdef_" + "A" * 43)
    assert (await stranger.request(method, path, json=body)).status_code == 401
    for held in (READ, SUBMIT, MANAGE, ADMIN):
        if needs not in GRANTS[held]:
            caller = await open_client(token=await token_for("ann", held))
            answer = await caller.request(method, path, json=body)
            assert (answer.status_code, answer.json()["type"]) == (403, "urn:corral:problem:not-permitted"), held
    allowed = await open_client(token=await token_for("ann", needs))
    answer = await allowed.request(method, path, json=body)
    if otherwise:
        assert answer.json()["type"] == f"urn:corral:problem:{otherwise}"
    else:
        assert answer.status_code in {200, 201, 202, 204}
    assert answer.status_code not in {401, 403}


async def test_every_route_is_tried(client: Client) -> None:
    """A route that is new has to be put into the table, with the scope that its description gives."""
    paths = (await client.get("/openapi.json")).json()["paths"]
    documented = {
        (method.upper(), path): operation["x-corral-scope"]
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    tried = {}
    for method, path, _, needs in ENDPOINTS:
        plain = path.partition("?")[0]
        fitting = [key for key in documented if key[0] == method and _fits(plain, key[1])]
        assert len(fitting) == 1, (method, path, fitting)
        tried[fitting[0]] = needs

    assert tried == {key: scope for key, scope in documented.items() if scope != "none"}
    assert {key[1] for key, scope in documented.items() if scope == "none"} == {
        "/healthz",
        "/readyz",
        "/v1/hooks/github",  # by signature
    }


def _fits(path: str, template: str) -> bool:
    pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template))
    return re.fullmatch(pattern, path) is not None


OWN = [(method, path, body) for method, path, body, _ in ENDPOINTS if "{own}" in path]


@pytest.mark.parametrize(("method", "path", "body"), OWN, ids=str)
async def test_somebody_elses_job_looks_as_if_it_did_not_exist(  # noqa: PLR0917
    corral: Corral, open_client: ClientFactory, token_for: TokenFactory, method: str, path: str, body: Any
) -> None:
    job_id = await own_job(corral, "bob")
    ann = await open_client(token=await token_for("ann", READ, SUBMIT))

    theirs = await ann.request(method, path.replace("{own}", job_id), json=body)
    missing = await ann.request(method, path.replace("{own}", "999"), json=body)

    assert theirs.status_code == missing.status_code == 404
    assert theirs.json()["type"] == missing.json()["type"]
    assert (await corral.get_job_status("anything", job_id)).state == "delayed"


async def test_lists_hold_only_the_callers_jobs(
    corral: Corral, open_client: ClientFactory, token_for: TokenFactory
) -> None:
    mine = await own_job(corral, "ann")
    theirs = await own_job(corral, "bob")
    ann = await open_client(token=await token_for("ann", READ))
    boss = await open_client(token=await token_for("boss", MANAGE))

    def ids(answer: httpx.Response) -> set[str]:
        return {job["id"] for job in answer.json()["jobs"]}

    assert ids(await ann.get("/v1/jobs/anything")) == {mine}
    assert ids(await ann.get("/v1/jobs/anything?user=bob")) == set()
    assert ids(await boss.get("/v1/jobs/anything")) == {mine, theirs}


async def test_payload_can_not_claim_another_user(
    corral: Corral, open_client: ClientFactory, token_for: TokenFactory
) -> None:
    ann = await open_client(token=await token_for("ann", SUBMIT, MANAGE))
    server = await open_client(token=await token_for("platform", ADMIN))
    for name in ("userId", "user_id"):
        data = code_generation(**{name: "bob"})
        refused = await ann.post("/v1/jobs/code-generation", json={"data": data})
        assert refused.status_code == 403
        in_batch = await ann.post("/v1/queues/code-generation/jobs", json={"items": [code_generation(), data]})
        assert in_batch.status_code == 403
        child = {"jobType": "code-generation", "data": data}
        in_flow = await ann.post("/v1/flows", json={"jobType": "anything", "data": {}, "children": [child]})
        assert in_flow.status_code == 403
        assert (await server.post("/v1/jobs/code-generation", json={"data": data})).status_code == 201
    assert (await corral.get_queue_stats("code-generation")).total == 2


async def test_job_without_a_user_in_its_payload_belongs_to_who_added_it(
    open_client: ClientFactory, token_for: TokenFactory
) -> None:
    ann = await open_client(token=await token_for("ann", READ, SUBMIT))
    bob = await open_client(token=await token_for("bob", READ, SUBMIT))
    added = await ann.post("/v1/jobs/thumbnail", json={"data": {"url": "x"}, "options": {"jobId": "mine"}})

    assert (await ann.get(f"/v1/jobs/thumbnail/{added.json()['id']}")).status_code == 200
    assert (await bob.get("/v1/jobs/thumbnail/mine")).status_code == 404
    taken = await bob.post("/v1/jobs/thumbnail", json={"data": {"url": "x"}, "options": {"jobId": "mine"}})
    assert (taken.status_code, taken.json()["type"]) == (409, "urn:corral:problem:job-state-conflict")
    assert (await bob.get("/v1/jobs/thumbnail/mine")).status_code == 404


async def test_deduplication_ids_of_two_users_do_not_meet(open_client: ClientFactory, token_for: TokenFactory) -> None:
    ann = await open_client(token=await token_for("ann", SUBMIT))
    bob = await open_client(token=await token_for("bob", SUBMIT))
    body = {"data": {}, "options": {"deduplication": {"id": "same"}}}

    first, second = [(await user.post("/v1/jobs/anything", json=body)).json()["id"] for user in (ann, ann)]
    other = (await bob.post("/v1/jobs/anything", json=body)).json()["id"]

    assert first == second
    assert other != first


async def test_idempotency_keys_of_two_users_do_not_meet(open_client: ClientFactory, token_for: TokenFactory) -> None:
    ids = []
    for user in ("ann", "bob"):
        caller = await open_client(token=await token_for(user, SUBMIT))
        answer = await caller.post("/v1/jobs/anything", json={"data": {}}, headers={"Idempotency-Key": "same"})
        ids.append(answer.json()["id"])
    assert len(set(ids)) == 2


async def test_token_limited_to_projects(open_client: ClientFactory, token_for: TokenFactory) -> None:
    ann = await open_client(token=await token_for("ann", SUBMIT, projects=["proj-id"]))

    allowed = await ann.post("/v1/jobs/code-generation", json={"data": code_generation()})
    refused = await ann.post("/v1/jobs/code-generation", json={"data": code_generation(projectId="other")})

    assert (allowed.status_code, refused.status_code) == (201, 403)


async def test_revoked_token_ends(corral: Corral, open_client: ClientFactory, token_for: TokenFactory) -> None:
    admin = await open_client(token=await token_for("root", ADMIN))
    made = (await admin.post("/v1/tokens", json={"userId": "ann", "scopes": ["read"], "name": "laptop"})).json()
    ann = await open_client(token=made["token"])
    assert (await ann.get("/v1/me")).json()["userId"] == "ann"
    listed = (await admin.get("/v1/tokens")).json()["tokens"]
    assert {token["name"] for token in listed} == {"", "laptop"}
    assert all("token" not in token for token in listed)

    assert (await admin.delete(f"/v1/tokens/{made['id']}")).status_code == 204

    assert (await ann.get("/v1/me")).status_code == 401
    assert (await admin.delete(f"/v1/tokens/{made['id']}")).status_code == 404


async def test_secret_is_stored_nowhere(corral: Corral, token_for: TokenFactory) -> None:
    token = await token_for("ann", READ)
    secret = token.rsplit("_", 1)[1] if token.count("_") == 2 else token[24:]
    stored = []
    async for key in corral.redis.scan_iter(f"{corral.namespace}:token*"):
        kind = await corral.redis.type(key)
        if kind == "hash":
            stored.append(str(await corral.redis.hgetall(key)))
    assert stored
    assert secret not in "".join(stored)


async def test_expired_token_ends(open_client: ClientFactory, token_for: TokenFactory) -> None:
    ann = await open_client(token=await token_for("ann", READ, lifetime=timedelta(milliseconds=1)))
    while (answer := await ann.get("/v1/me")).status_code == 200:
        await asyncio.sleep(0.01)
    assert answer.status_code == 401


async def test_server_does_not_fall_open_when_its_last_token_ends(
    corral: Corral, open_client: ClientFactory, token_for: TokenFactory
) -> None:
    store = TokenStore(corral.redis, prefix=corral.namespace)
    _, info = await store.create("ann", [ADMIN])
    nobody = await open_client()
    await store.revoke(info.id)

    assert (await nobody.get("/v1/me")).status_code == 401
    await store.reset()
    assert await store.required() is False


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("10.0.0.5", {}),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.5"}),
        ("127.0.0.1", {"Forwarded": "for=10.0.0.5"}),
        ("127.0.0.1", {"Host": "attacker.example"}),
        ("127.0.0.1", {"Origin": "http://attacker.example"}),
        ("127.0.0.1", {"Sec-Fetch-Site": "cross-site"}),
    ],
)
async def test_without_a_token_only_programs_of_this_machine_are_served(
    open_client: ClientFactory, peer: str, headers: dict[str, str]
) -> None:
    caller = await open_client(peer=peer)

    answer = await caller.post("/v1/queues/anything/pause", headers=headers)

    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "corral.example"])  # noqa: S104 - refused
async def test_public_bind_is_refused_without_a_token(corral: Corral, token_for: TokenFactory, host: str) -> None:
    authenticator = Authenticator(TokenStore(corral.redis, prefix=corral.namespace))
    with pytest.raises(ConfigurationError, match="corral token create"):
        await authenticator.refuse_public_bind(host)
    for loopback in ("127.0.0.1", "localhost", "::1"):
        await authenticator.refuse_public_bind(loopback)

    await token_for("ann", READ)
    await Authenticator(TokenStore(corral.redis, prefix=corral.namespace)).refuse_public_bind(host)


async def test_jwt_of_the_platform(corral: Corral, open_client: ClientFactory) -> None:
    authenticator = Authenticator(TokenStore(corral.redis, prefix=corral.namespace), JwtVerifier(secret=SECRET))
    app = create_app(corral, authenticator=authenticator)
    soon = 4_000_000_000
    token = jwt.encode({"sub": "ann", "exp": soon, "scope": "read submit"}, SECRET, algorithm="HS256")
    ann = await open_client(token=token, of=app)
    nobody = await open_client(of=app)

    assert (await ann.get("/v1/me")).json() | {"expiresAt": None} == {
        "userId": "ann", "scopes": ["read", "submit"], "kind": "jwt", "projects": None, "expiresAt": None,
    }  # fmt: skip
    assert (await ann.post("/v1/queues/anything/pause")).status_code == 403
    assert (await nobody.get("/v1/me")).status_code == 401


async def test_limit_is_per_user_and_endpoint_and_says_so(
    corral: Corral, open_client: ClientFactory, token_for: TokenFactory
) -> None:
    app = create_app(corral)
    guard = await app.state.corral_api.guard()
    guard.request_limit = 3
    ann = await open_client(token=await token_for("ann", READ), of=app)
    bob = await open_client(token=await token_for("bob", READ), of=app)
    free = await open_client(token=await token_for("platform", READ, request_limit=0), of=app)

    answers = [await ann.get("/v1/queues") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers[:3]] == [
        '"default";r=2', '"default";r=1', '"default";r=0',
    ]  # fmt: skip
    assert answers[3].headers["retry-after"] == str(answers[3].json()["retry_after_s"])
    assert answers[3].json()["type"] == "urn:corral:problem:too-many-requests"
    assert (await ann.get("/v1/me")).status_code == 200
    assert (await bob.get("/v1/queues")).status_code == 200
    assert {(await free.get("/v1/queues")).status_code for _ in range(5)} == {200}


async def test_platforms_on_one_redis_share_nothing(corral: Corral, token_for: TokenFactory) -> None:
    """Two queue prefixes: neither the other's tokens nor its projects."""
    token = await token_for("ann", "admin")
    await corral.parts.projects.add(Project.model_validate({"id": "site", "repository": "/srv/site.git"}))
    other = Corral(corral._url, prefix="another", settings=corral.settings)

    async with other:
        assert await other.parts.projects.list() == []
        with pytest.raises(NotAuthenticated):
            await TokenStore(other.redis, prefix=other.namespace).check(token)
    assert [project.id for project in await corral.parts.projects.list()] == ["site"]
    assert (await TokenStore(corral.redis, prefix=corral.namespace).check(token)).user_id == "ann"
