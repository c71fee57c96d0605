"""What the client library's errors mean, in Corral's terms and in one clear line each."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions as redis_errors
from redis.asyncio.sentinel import MasterNotFoundError

from corral.errors import StoreAuthenticationFailed, StoreError, StoreUnavailable, StoreUnsuitable
from corral.wire.address import StoreAddress, mask_url
from corral.wire.refusals import read_refusal

_AUTHENTICATION_ERRORS = (redis_errors.AuthenticationError, redis_errors.AuthenticationWrongNumberOfArgsError)
# The first words that the library takes off the replies that it knows; before 7 it told them by the class only.
_CODES = {
    redis_errors.AskError: "ASK",
    redis_errors.BusyLoadingError: "LOADING",
    redis_errors.ClusterCrossSlotError: "CROSSSLOT",
    redis_errors.ClusterDownError: "CLUSTERDOWN",
    redis_errors.MasterDownError: "MASTERDOWN",
    redis_errors.MovedError: "MOVED",
    redis_errors.NoPermissionError: "NOPERM",
    redis_errors.OutOfMemoryError: "OOM",
    redis_errors.ReadOnlyError: "READONLY",
    redis_errors.TryAgainError: "TRYAGAIN",
}
_NETWORK_ERRORS = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ClusterError,
    redis_errors.RedisClusterException,
    OSError,
)
_SILENT = "does not answer in time"
_CLOSED = "closed the connection"
# The first that fits: an exception's type anywhere in the chain of causes, or a sign in its text.
_NETWORK_FAULTS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str | None, str], ...] = (
    (MasterNotFoundError, None, "can't be found: no sentinel answers, or none knows a primary of this name"),
    (ssl.SSLCertVerificationError, None, "can't be trusted: its TLS certificate does not fit (see ssl_ca_certs)"),
    (ssl.SSLError, None, "does not speak TLS as asked: try redis:// instead of rediss://"),
    (socket.gaierror, None, "can't be reached: no such host; check REDIS_URL"),
    (FileNotFoundError, None, "can't be reached: there is no such socket"),
    (PermissionError, None, "can't be reached: this user may not use the socket"),
    (
        ConnectionRefusedError,
        "connect call failed",
        "can't be reached: connection refused; start it, or check REDIS_URL",
    ),
    ((TimeoutError, redis_errors.TimeoutError), None, _SILENT),
    ((ConnectionResetError, BrokenPipeError), "closed by server", _CLOSED),
)
# What happens as well when one side speaks TLS and the other doesn't.
_TLS_HINTS = {
    (_SILENT, True): " (a server without TLS does that: is rediss:// right in REDIS_URL, or try redis://)",
    (
        _CLOSED,
        False,
    ): " (a server that expects TLS does that at once: is redis:// right in REDIS_URL, or try rediss://)",
}


@contextmanager
def translate_errors(where: StoreAddress | str | None = None) -> Iterator[None]:
    """Turn the client library's errors into Corral's, each with one clear line.

    Args:
        where: The server, for the message.

    Raises:
        StoreUnavailable: Can't be reached, or can't do it now; trying later can help.
        StoreAuthenticationFailed: Wrong user or password, or a command that this user may not use.
        StoreUnsuitable: This server will never do it.
    """
    try:
        yield
    except (redis_errors.RedisError, redis_errors.RedisClusterException, OSError) as error:
        translated = translate_error(error, where)
        if translated is None:
            raise
        raise translated from error


def translate_error(error: BaseException, where: StoreAddress | str | None = None) -> StoreError | None:
    """What an error of the client library means; None for one that is about the command, not about the server."""
    if isinstance(error, StoreError):
        return error
    place = f"Redis at {mask_url(where) if isinstance(where, str) else where}" if where is not None else "Redis"
    if isinstance(error, redis_errors.MaxConnectionsError):
        return StoreUnavailable(f"all connections to {place} are in use: allow more, or do less at once")
    # A refusal in a connection's greeting (AUTH, SELECT) arrives wrapped.
    for found in _chain(error, contexts=False):
        if isinstance(found, redis_errors.RedisError) and (refusal := _translate_refusal(found, place)):
            return refusal
    if not isinstance(error, _NETWORK_ERRORS):
        return None
    tls = where.tls if isinstance(where, StoreAddress) else (where or "").startswith(("rediss", "valkeys"))
    return _translate_network(error, place, tls=tls)


def _translate_refusal(error: BaseException, place: str) -> StoreError | None:
    said = str(error)
    code = getattr(error, "status_code", None) or _CODES.get(type(error))
    if code and not said.startswith(code):
        said = f"{code} {said}"
    found = read_refusal(said, place=place)
    if found is None and isinstance(error, _AUTHENTICATION_ERRORS):
        return StoreAuthenticationFailed(f"{place} refused the user or the password: check REDIS_URL")
    return found


def _translate_network(error: BaseException, place: str, *, tls: bool) -> StoreError:
    # The nearest cause wins: further out may lie what the caller was busy with before.
    for cause in _chain(error, contexts=True):
        text = str(cause).lower()
        if "mode is not enabled" in text:
            return StoreUnsuitable(f"{place} is no Cluster: use redis:// instead of redis+cluster://")
        for kinds, sign, what in _NETWORK_FAULTS:
            if isinstance(cause, kinds) or (sign is not None and sign in text):
                return StoreUnavailable(f"{place} {what}{_TLS_HINTS.get((what, tls), '')}")
    return StoreUnavailable(f"{place} can't be reached: {_one_line(error)}")


def _chain(error: BaseException, *, contexts: bool) -> Iterator[BaseException]:
    """The error and what caused it, nearest first, each once.

    Args:
        error: Where to begin.
        contexts: Follow implicit chaining too. redis-py hides the cause of a failed connection there; but an error
            raised while another was handled has nothing to do with it.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        found = queue.pop(0)
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        queue.append(found.__cause__)
        queue += [argument for argument in found.args if isinstance(argument, BaseException)]
        if contexts:
            queue.append(found.__context__)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
