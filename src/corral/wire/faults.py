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

_AUTHENTICATION_ERRORS = (redis_errors.AuthenticationError, redis_errors.AuthenticationWrongNumberOfArgsError)
_REFUSALS = (redis_errors.ResponseError, *_AUTHENTICATION_ERRORS)
_NETWORK_ERRORS = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ClusterError,
    redis_errors.RedisClusterException,
    OSError,
)

_UNPROTECTED_SIGN = "without any password configured"

# By the first word of the server's reply. What comes back after a while, or after someone has mended the server:
_UNAVAILABLE_CODES = {
    "BUSY": "is busy with a script that does not end",
    "CLUSTERDOWN": "is a Cluster that is down: some slots have no server",
    "LOADING": "is still loading its data: try again in a moment",
    "MASTERDOWN": "has lost its primary",
    "MISCONF": "refuses writes because it can't save to its disk: see its log; most often the disk is full",
    "NOREPLICAS": "refuses writes: too few replicas are connected",
    "OOM": "has used up its memory: clean finished jobs (corral clean), or give it more (maxmemory)",
    "READONLY": "is a replica, which takes no writes: a failover is under way, or REDIS_URL names a replica",
    "TRYAGAIN": "is moving slots: try again in a moment",
}
# ... and what never will:
_UNSUITABLE_CODES = {
    "CROSSSLOT": "is a Cluster, where a queue's keys need one hash tag: set CORRAL_PREFIX to '{bull}'",
    "MOVED": "is a node of a Cluster: use redis+cluster:// in REDIS_URL",
}
_UNSUITABLE_SIGNS = {
    "db index is out of range": "has no such database",
    "select is not allowed in cluster": "is a node of a Cluster, which has only database 0",
    "unknown command": "lacks a command that a queue needs (Redis 6.2 or newer is needed)",
}
_SILENT = "does not answer in time"
_CLOSED = "closed the connection"
# The first that fits: an exception's type anywhere in the chain of causes, or a sign in its text.
_NETWORK_FAULTS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str | None, str], ...] = (
    ((), "max number of clients", "has no connection to spare (maxclients)"),
    (redis_errors.BusyLoadingError, None, _UNAVAILABLE_CODES["LOADING"]),
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
    # A refusal in a connection's greeting (AUTH, SELECT) arrives wrapped.
    refusal = next((found for found in _chain(error, contexts=False) if isinstance(found, _REFUSALS)), None)
    if isinstance(error, redis_errors.MaxConnectionsError):
        return StoreUnavailable(f"all connections to {place} are in use: allow more, or do less at once")
    if refusal is not None:
        return _translate_refusal(refusal, place)
    if not isinstance(error, _NETWORK_ERRORS):
        return None
    tls = where.tls if isinstance(where, StoreAddress) else (where or "").startswith(("rediss", "valkeys"))
    return _translate_network(error, place, tls=tls)


def _translate_refusal(error: BaseException, place: str) -> StoreError | None:
    said = _one_line(error)
    code = str(getattr(error, "status_code", None) or said.partition(" ")[0])
    if isinstance(error, redis_errors.NoPermissionError):
        return StoreAuthenticationFailed(f"{place} does not allow this user everything that a queue needs: {said}")
    if isinstance(error, _AUTHENTICATION_ERRORS) or _UNPROTECTED_SIGN in said:
        return StoreAuthenticationFailed(f"{place} {_why_not_let_in(code, said)}")
    if code in _UNAVAILABLE_CODES:
        return StoreUnavailable(f"{place} {_UNAVAILABLE_CODES[code]}")
    if code in _UNSUITABLE_CODES:
        return StoreUnsuitable(f"{place} {_UNSUITABLE_CODES[code]}")
    for sign, what in _UNSUITABLE_SIGNS.items():
        if sign in said.lower():
            return StoreUnsuitable(f"{place} {what}: {said}")
    return None


def _why_not_let_in(code: str, said: str) -> str:
    if code == "NOAUTH" or "Authentication required" in said:
        return "wants a password: put it into REDIS_URL, redis://:PASSWORD@host"
    if _UNPROTECTED_SIGN in said:
        return "has no password, but REDIS_URL brings one: remove it"
    return "refused the user or the password: check REDIS_URL"


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
