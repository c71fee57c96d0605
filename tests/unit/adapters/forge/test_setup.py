from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.memory_redis import MemoryRedis

from corral.adapters.forge.factory import make_forges
from corral.adapters.forge.github import GitHubForge, web_address
from corral.adapters.forge.gitlab import GitLabForge
from corral.adapters.forge.http import Answer, owner_and_name, pause_asked, said
from corral.adapters.forge.local import LocalForge
from corral.adapters.forge.port import Refusal, Refused
from corral.errors import ConfigurationError, ForgeFailed
from corral.projects import Project
from corral.settings import Settings


def settings(**fields: object) -> Settings:
    return Settings(_env_file=None, data_dir=Path("/nonexistent"), **fields)  # type: ignore[arg-type]


def project(repository: str, **fields: object) -> Project:
    return Project.model_validate({"id": "shop", "repository": repository, **fields})


async def test_forges_are_made_once_from_what_is_set() -> None:
    forges = make_forges(settings(github_token=SecretStr("t"), gitlab_token=SecretStr("t")), MemoryRedis())
    github = forges.of(project("https://github.com/acme/shop"))
    assert isinstance(github, GitHubForge)
    assert forges.of(project("https://github.com/acme/other")) is github
    assert isinstance(forges.of(project("https://gitlab.com/acme/shop")), GitLabForge)
    assert isinstance(forges.of(project("/srv/x.git")), LocalForge)
    await forges.aclose()


@pytest.mark.parametrize(
    ("repository", "told"),
    [
        ("https://github.com/acme/shop", "GITHUB_TOKEN"),
        ("https://gitlab.com/acme/shop", "GITLAB_TOKEN"),
        ("https://codeberg.org/acme/shop", "CORRAL_GITEA_URL"),
    ],
)
async def test_what_is_not_set_up_is_told_with_what_to_set(repository: str, told: str) -> None:
    forges = make_forges(settings(), MemoryRedis())
    with pytest.raises(ConfigurationError, match=told):
        forges.of(project(repository))
    assert (await forges.remote(project(repository))).credential is None


def test_a_token_is_not_sent_to_an_address_that_a_project_names() -> None:
    forges = make_forges(settings(github_token=SecretStr("t")), MemoryRedis())
    with pytest.raises(ConfigurationError, match="evil"):
        forges.of(project("https://github.com/acme/shop", forge_url="https://evil.example"))


def test_half_an_app_is_told() -> None:
    with pytest.raises(ConfigurationError, match="CORRAL_GITHUB_APP_PRIVATE_KEY"):
        make_forges(settings(github_app_id="1"), MemoryRedis())


@pytest.mark.parametrize(
    ("api", "web"),
    [
        ("https://api.github.com", "https://github.com"),
        ("https://ghe.example.org/api/v3", "https://ghe.example.org"),
        ("https://api.acme.ghe.com", "https://acme.ghe.com"),
    ],
)
def test_where_the_repositories_of_an_api_are(api: str, web: str) -> None:
    assert web_address(api) == web


@pytest.mark.parametrize(
    "repository",
    [
        "https://github.com.evil.example/a/b", "http://github.com/a/b", "https://github.com/a", "https://github.com:444/a/b",
        "https://github.com/a/b?x", "/a/b",
    ],
)  # fmt: skip
def test_an_address_elsewhere_is_refused(repository: str) -> None:
    if "?" in repository:
        assert owner_and_name(Refused("github"), repository, web="https://github.com") == "a/b"
        return
    with pytest.raises(ForgeFailed) as raised:
        owner_and_name(Refused("github"), repository, web="https://github.com")
    assert raised.value.reason == "repository_not_found"


def test_a_token_that_a_forge_quotes_is_masked() -> None:
    token = "ghp_" + "a1B2" * 9
    assert token not in str(Refused("github")(Refusal.INVALID_REQUEST, "x", f"bad {token}!"))


def test_what_a_forge_says_is_one_bounded_line() -> None:
    body = {"message": "Validation\nFailed", "errors": [{"field": "base", "code": "invalid"}], "documentation_url": "u"}
    assert said(body) == "Validation Failed / field base"
    assert len(said("x" * 10_000)) <= 400
    assert said(None) == "no message"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 1),
        ({"retry-after": "999999"}, 3900),
        ({"retry-after": "soon"}, 60),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}, 1),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "9999999999"}, None),
        ({}, None),
    ],
)
def test_the_pause_that_is_asked_for(headers: dict[str, str], seconds: float | None) -> None:
    pause = pause_asked(Answer(429, headers, None))
    assert (None if pause is None else pause.total_seconds()) == seconds
