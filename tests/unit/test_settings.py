"""Settings that don't fit are named as their variables are."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral import ConfigurationError, Corral, Settings
from corral.adapters.llm.choose import PROVIDERS
from corral.settings import read_settings, stray_variables, variable_of


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CORRAL_CONCURRENCY", "many", "CORRAL_CONCURRENCY: input should be a valid integer"),
        ("CORRAL_PORT", "0", "got '0'"),
        ("CORRAL_COMMIT_AUTHOR", "ada@example.org", "CORRAL_COMMIT_AUTHOR: string should match pattern"),
        ("CORRAL_COMMIT_AUTHOR", "Ada <ada @example.org>", "CORRAL_COMMIT_AUTHOR: string should match pattern"),
        ("CORRAL_COMMIT_TRAILERS", "no JSON", "CORRAL_COMMIT_TRAILERS: expected JSON"),
        ("CORRAL_COMMIT_TRAILERS", '{"A": 1}', "CORRAL_COMMIT_TRAILERS.A: "),
        ("CORRAL_MODEL", "gpt-5", "CORRAL_MODEL: expected local, openai:NAME"),
        ("CORRAL_EMBEDDER", "openai", "CORRAL_EMBEDDER: expected static, minilm"),
        ("CORRAL_INDEX_STORE", "/srv/indexes", "expected local or s3://BUCKET/PREFIX, got '/srv/indexes'"),
    ],
)
def test_one_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setenv(variable, value)
    for made in (read_settings, Corral):
        with pytest.raises(ConfigurationError) as caught:
            made()
        assert said in str(caught.value)


def test_the_names_are_those_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {field: variable_of(field) for field in Settings.model_fields}
    assert (names["redis_url"], names["github_token"], names["lease"]) == ("REDIS_URL", "GITHUB_TOKEN", "CORRAL_LEASE")
    monkeypatch.setenv(names["gitlab_token"], "of gitlab")
    found = read_settings().gitlab_token
    assert found is not None
    assert found.get_secret_value() == "of gitlab"


@pytest.mark.parametrize("model", ["local", *(f"{provider}:name" for provider in PROVIDERS)])
def test_each_model_that_can_be_opened_can_be_set(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setenv("CORRAL_MODEL", model)
    assert read_settings().model == model


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(
            ("CORRAL_EMBEDDER", one)
            for one in ("static", "minilm", "minilm:/models/minilm", "openai:text-embedding-3-small")
        ),
        *(("CORRAL_EMBEDDER", one) for one in ("voyage:voyage-code-3", "openai-compatible:nomic-embed-code")),
        *(("CORRAL_INDEX_STORE", one) for one in ("local", "s3://bucket", "s3://bucket/prefix")),
    ],
)
def test_each_form_of_the_documents_can_be_set(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    assert value in {read_settings().embedder, read_settings().index_store}


def test_variables_that_are_no_settings_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("CORRAL_DATADIR=/srv\nCORRAL_LEASE=20\nOTHER=1\n")
    monkeypatch.setenv("CORRAL_CONCURENCY", "9")
    monkeypatch.setenv("CORRAL_GITLAB_TOKEN", "t")
    monkeypatch.setenv("CORRAL_APP", "package:corral")
    monkeypatch.setenv("CORRAL_TEAM", "search")
    assert stray_variables() == {
        "CORRAL_CONCURENCY": "CORRAL_CONCURRENCY",
        "CORRAL_DATADIR": "CORRAL_DATA_DIR",
        "CORRAL_TEAM": None,
    }
