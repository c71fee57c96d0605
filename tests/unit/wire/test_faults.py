"""What an error of the client library becomes."""

from __future__ import annotations

import pytest
from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser

from corral.errors import StoreAuthenticationFailed, StoreError, StoreUnavailable, StoreUnsuitable
from corral.wire.faults import translate_error, translate_errors


def reply(text: str) -> redis_errors.RedisError:
    """The error that the library makes of a server's reply."""
    error: redis_errors.RedisError = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("WRONGPASS invalid username-password pair or user is disabled.", StoreAuthenticationFailed, "check REDIS_URL"),
        ("NOAUTH Authentication required.", StoreAuthenticationFailed, "wants a password"),
        (
            "ERR AUTH <password> called without any password configured for the default user. Are you sure?",
            StoreAuthenticationFailed,
            "remove it",
        ),
        ("NOPERM User x has no permissions to run the 'evalsha' command", StoreAuthenticationFailed, "evalsha"),
        ("LOADING Valkey is loading the dataset in memory", StoreUnavailable, "loading"),
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreUnavailable, "corral clean"),
        ("MISCONF Errors writing to the AOF file: No space left on device", StoreUnavailable, "disk"),
        ("NOREPLICAS Not enough good replicas to write.", StoreUnavailable, "min-replicas-to-write"),
        ("READONLY You can't write against a read only replica.", StoreUnavailable, "replica"),
        ("CLUSTERDOWN The cluster is down", StoreUnavailable, "Cluster"),
        ("ERR max number of clients reached", StoreUnavailable, "maxclients"),
        ("BUSY Valkey is busy running a script.", StoreUnavailable, "script"),
        ("MOVED 3999 127.0.0.1:6381", StoreUnsuitable, "redis+cluster://"),
        ("CROSSSLOT Keys in request don't hash to the same slot", StoreUnsuitable, "{bull}"),
        ("ERR DB index is out of range", StoreUnsuitable, "no such database"),
        ("ERR unknown command 'LPOS', with args beginning with: ", StoreUnsuitable, "LPOS"),
    ],
)
def test_a_refusal_says_what_to_mend(text: str, kind: type[StoreError], says: str) -> None:
    found = translate_error(reply(text), "redis://:secret@h:1")
    assert type(found) is kind
    assert says in str(found)
    assert "Redis at redis://:***@h:1 " in str(found)


def test_a_wrapped_refusal_that_is_not_known_is_still_told() -> None:
    found = translate_error(redis_errors.ConnectionError(reply("ERR something new")))
    assert type(found) is StoreUnavailable
    assert "something new" in str(found)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis_errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), StoreUnavailable),
        (redis_errors.BusyLoadingError("Redis is loading the dataset in memory"), StoreUnavailable),
        (redis_errors.NoPermissionError("User x has no permissions"), StoreAuthenticationFailed),
        (redis_errors.AuthenticationError("invalid username-password pair"), StoreAuthenticationFailed),
    ],
)
def test_an_older_library_that_tells_no_code_is_understood(
    error: redis_errors.RedisError, kind: type[StoreError]
) -> None:
    assert not getattr(error, "status_code", None)
    assert type(translate_error(error)) is kind


@pytest.mark.parametrize("text", ["NOSCRIPT No matching script.", "WRONGTYPE Operation against a key", "ERR -2 odd"])
def test_an_error_about_the_command_stays_itself(text: str) -> None:
    error = reply(text)
    assert translate_error(error) is None
    with pytest.raises(type(error)), translate_errors():
        raise error


def test_what_the_caller_was_handling_before_is_not_the_cause() -> None:
    refused = redis_errors.ConnectionError("Error 111 connecting to h:1. Connect call failed")
    refused.__context__ = reply("NOSCRIPT No matching script.")
    assert "connection refused" in str(translate_error(refused))
    silent = redis_errors.TimeoutError("Timeout reading from h:1")
    silent.__context__ = ConnectionRefusedError()
    assert "in time" in str(translate_error(silent))


def test_a_refusal_of_the_greeting_is_found_inside_its_wrapper() -> None:
    refusal = reply("ERR DB index is out of range")
    wrapper = redis_errors.ConnectionError(refusal)
    assert isinstance(translate_error(wrapper), StoreUnsuitable)


def test_errors_of_others_pass() -> None:
    with pytest.raises(KeyError), translate_errors():
        raise KeyError
