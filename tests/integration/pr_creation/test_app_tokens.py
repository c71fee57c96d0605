"""GitHub App installation tokens: for one repository, with the least permissions, renewed in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr
from tests.support.fake_github import NAME, OWNER, FakeGitHub
from tests.support.pull_requests import PullRequestBench
from tests.support.web_server import Reply

from corral.adapters.forge.github import AppTokens, GitHubForge
from corral.adapters.forge.registry import Forges
from corral.errors import ConfigurationError, ForgeFailed
from corral.projects import ForgeKind

_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_PEM = _KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
).decode()
_REPOSITORY = f"{OWNER}/{NAME}"


@pytest.fixture
def github(tmp_path: Path) -> Iterator[FakeGitHub]:
    with FakeGitHub(tmp_path) as running:
        yield running


def app(github: FakeGitHub, key: str = _PEM) -> AppTokens:
    return AppTokens(app_id="4711", installation_id=42, private_key=SecretStr(key), api_url=github.api_url)


async def test_a_pull_request_is_opened_with_tokens_for_this_repository_only(
    tmp_path: Path, github: FakeGitHub
) -> None:
    github.can_push = False  # an App is no collaborator
    forge = GitHubForge(app(github), api_url=github.api_url)
    bench = PullRequestBench(
        tmp_path,
        repository=github.repository,
        project={"repository": github.address, "forge": ForgeKind.GITHUB},
        forges=Forges({ForgeKind.GITHUB: lambda _url: forge}),
    )
    assert (await bench.open(await bench.generate({"a.txt": "a\n"}))).created

    [asked] = github.app_requests
    assert asked["repositories"] == [NAME]
    assert asked["permissions"] == {"contents": "write", "metadata": "read", "pull_requests": "write"}
    claims = jwt.decode(asked["jwt"], _KEY.public_key(), algorithms=["RS256"])
    assert claims["iss"] == "4711"
    assert 0 < claims["exp"] - claims["iat"] <= 600


async def test_a_token_is_used_while_it_lives_and_renewed_before_it_ends(github: FakeGitHub) -> None:
    tokens = app(github)
    first = await tokens.token(_REPOSITORY)
    assert await tokens.token(_REPOSITORY) == first
    github.token_life = timedelta(minutes=9)
    tokens._tokens.clear()
    short = await tokens.token(_REPOSITORY)
    assert await tokens.token(_REPOSITORY) != short


async def test_many_jobs_at_once_ask_for_one_token(github: FakeGitHub) -> None:
    tokens = app(github)
    given = await asyncio.gather(*(tokens.token(_REPOSITORY) for _ in range(5)))
    assert len(set(given)) == 1
    assert len(github.app_requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Reply(401, b'{"message": "A JSON web token could not be decoded"}'), "authentication_failed"),
        (Reply(404, b'{"message": "Integration not found"}'), "authentication_failed"),
        (Reply(422, b'{"message": "The permissions requested are not granted"}'), "permission_denied"),
        (Reply(422, b'{"message": "There is at least one repository that is not accessible"}'), "repository_not_found"),
        (Reply(201, b'{"token": 1}'), "invalid_answer"),
    ],
)
async def test_what_is_wrong_with_an_app_is_told(github: FakeGitHub, answer: Reply, reason: str) -> None:
    github.answer_next.append((r"POST .*access_tokens", lambda _request: answer))
    with pytest.raises(ForgeFailed) as raised:
        await GitHubForge(app(github), api_url=github.api_url).describe(github.address)
    assert (raised.value.reason, raised.value.retryable) == (reason, False)


def test_a_key_that_is_none_is_refused_without_showing_it(github: FakeGitHub) -> None:
    with pytest.raises(ConfigurationError) as raised:
        app(github, key="not-a-key")
    assert "not-a-key" not in str(raised.value)
