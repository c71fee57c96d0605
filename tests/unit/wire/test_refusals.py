"""What error replies mean, by the one table."""

from __future__ import annotations

import hiredis
import pytest
from redis._parsers.base import BaseParser

from corral.errors import StoreAuthenticationFailed, StoreError, StoreUnavailable, StoreUnsuitable
from corral.wire.faults import translate_error
from corral.wire.pipe import reply_failure
from corral.wire.refusals import code_of, read_refusal

PASSING = [
    "BUSY Valkey is busy running a script.",
    "CLUSTERDOWN The cluster is down",
    "LOADING Valkey is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "NOREPLICAS Not enough good replicas to write.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "ERR max number of clients reached",
    "ERR max requests limit exceeded. Limit: 500000, Usage: 500000.",
    "ERR max daily request limit exceeded. Limit: 10000, Usage: 10000.",
    "ERR DB capacity quota exceeded",
]
LASTING = [
    "CROSSSLOT Keys in request don't hash to the same slot",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOAUTH Authentication required.",
    "NOPERM User x has no permissions to run the 'evalsha' command",
    "ERR AUTH <password> called without any password configured for the default user. Are you sure?",
    "ERR invalid password",
    "ERR DB index is out of range",
    "ERR unknown command 'LPOS', with args beginning with: ",
]
ABOUT_THE_COMMAND = [
    "NOSCRIPT No matching script. Please use EVAL.",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR value is not an integer or out of range",
    "BUSYGROUP Consumer Group name already exists",
]


@pytest.mark.parametrize("said", [*PASSING, *LASTING])
def test_both_clients_read_a_refusal_alike(said: str) -> None:
    of_the_pipe = reply_failure(hiredis.ReplyError(said))
    of_the_library = translate_error(BaseParser.parse_error(said))  # type: ignore[no-untyped-call]
    assert type(of_the_pipe) is type(of_the_library)
    assert str(of_the_pipe) == str(of_the_library)


@pytest.mark.parametrize("said", PASSING)
def test_what_passes_is_unavailable(said: str) -> None:
    assert type(read_refusal(said)) is StoreUnavailable


@pytest.mark.parametrize("said", LASTING)
def test_what_lasts_is_not(said: str) -> None:
    assert type(read_refusal(said)) in {StoreUnsuitable, StoreAuthenticationFailed}


@pytest.mark.parametrize("said", ABOUT_THE_COMMAND)
def test_a_fault_of_the_command_is_neither(said: str) -> None:
    assert read_refusal(said) is None
    failure = reply_failure(hiredis.ReplyError(said))
    assert type(failure) is StoreError
    assert said in str(failure)


@pytest.mark.parametrize("code", ["MOVED", "ASK"])
def test_a_moved_slot_passes_for_who_looks_for_it_anew(code: str) -> None:
    said = f"{code} 3999 127.0.0.1:6381"
    assert type(reply_failure(hiredis.ReplyError(said))) is StoreUnavailable
    assert type(read_refusal(said)) is StoreUnsuitable


@pytest.mark.parametrize(
    ("said", "code"),
    [
        # Redis 6.2
        (
            "ERR Error running script (call to f_5ba3): @user_script:1: @user_script: 1: -OOM command not allowed. ",
            "OOM",
        ),
        # Dragonfly
        (
            "ERR Error running script (call to 5ba3): @user_script:2: -READONLY You can't write against a replica",
            "READONLY",
        ),
        # Redis 7, Valkey
        ("OOM command not allowed when used memory > 'maxmemory'. script: 5ba3, on @user_script:12.", "OOM"),
        ("ERR Error running script (call to f_5ba3): @user_script:1: user_script:1: boom", "ERR"),
    ],
)
def test_the_refusal_of_a_scripts_own_command_is_found_in_its_wrapping(said: str, code: str) -> None:
    assert code_of(said) == code
    assert type(reply_failure(hiredis.ReplyError(said))) is (StoreError if code == "ERR" else StoreUnavailable)
