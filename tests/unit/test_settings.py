"""Settings that don't fit are named as their variables are."""

from __future__ import annotations

import pytest

from corral import ConfigurationError, Corral, Settings
from corral.settings import read_settings, variable_of


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CORRAL_CONCURRENCY", "many", "CORRAL_CONCURRENCY: input should be a valid integer"),
        ("CORRAL_PORT", "0", "got '0'"),
        ("CORRAL_COMMIT_AUTHOR", "ada@example.org", "CORRAL_COMMIT_AUTHOR: string should match pattern"),
        ("CORRAL_COMMIT_AUTHOR", "Ada <ada @example.org>", "CORRAL_COMMIT_AUTHOR: string should match pattern"),
        ("CORRAL_COMMIT_TRAILERS", "no JSON", "CORRAL_COMMIT_TRAILERS: expected JSON"),
        ("CORRAL_COMMIT_TRAILERS", '{"A": 1}', "CORRAL_COMMIT_TRAILERS.A: "),
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
