"""What a server's refusals mean: one table of error replies, read by every connection.

A refusal is one of three things, and its error's class says which:

- passing, ``StoreUnavailable``: the server can't do it now. It can again by itself, or when somebody has mended it; a
  worker asks again after a pause, a producer is told at once and may try later;
- lasting, ``StoreUnsuitable`` or ``StoreAuthenticationFailed``: this server, or this user of it, never will;
- about the command, ``StoreError``: no other server would take it either, so that the fault is Corral's or the
  caller's. Whatever the table doesn't name is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from corral.errors import StoreAuthenticationFailed, StoreError, StoreUnavailable, StoreUnsuitable


@dataclass(frozen=True, slots=True)
class _Meaning:
    error: type[StoreError]
    #: Goes on from the server's name.
    what: str
    #: Whether the server's own words say more.
    quoted: bool = False


_NO_CONNECTION = _Meaning(StoreUnavailable, "has no connection to spare (maxclients)")
_REQUESTS_USED_UP = _Meaning(StoreUnavailable, "has used up its requests: wait for the next period, or raise its plan")

#: By a reply's first word.
_BY_CODE = {
    # passing
    "BUSY": _Meaning(StoreUnavailable, "is busy with a script that does not end"),
    "CLUSTERDOWN": _Meaning(StoreUnavailable, "is a Cluster that is down: some slots have no server"),
    "LOADING": _Meaning(StoreUnavailable, "is still loading its data: try again in a moment"),
    "MASTERDOWN": _Meaning(StoreUnavailable, "has lost its primary"),
    "MISCONF": _Meaning(
        StoreUnavailable, "refuses writes because it can't save to its disk: see its log; most often the disk is full"
    ),
    "NOREPLICAS": _Meaning(
        StoreUnavailable, "refuses writes: fewer replicas are connected than it asks for (min-replicas-to-write)"
    ),
    "OOM": _Meaning(
        StoreUnavailable,
        "has used up its memory: clean finished jobs (corral clean), keep them less long, or give it more (maxmemory)",
    ),
    "READONLY": _Meaning(
        StoreUnavailable,
        "is a replica, which takes no writes: a failover is under way, or REDIS_URL names a replica",
    ),
    "TRYAGAIN": _Meaning(StoreUnavailable, "is moving slots: try again in a moment"),
    "UNBLOCKED": _Meaning(StoreUnavailable, "has just become a replica: a failover is under way"),
    # lasting
    "CROSSSLOT": _Meaning(
        StoreUnsuitable, "is a Cluster, where a queue's keys need one hash tag: set CORRAL_PREFIX to '{bull}'"
    ),
    "MOVED": _Meaning(StoreUnsuitable, "is a node of a Cluster: use redis+cluster:// in REDIS_URL"),
    "ASK": _Meaning(StoreUnsuitable, "is a node of a Cluster: use redis+cluster:// in REDIS_URL"),
    "NOAUTH": _Meaning(StoreAuthenticationFailed, "wants a password: put it into REDIS_URL, redis://:PASSWORD@host"),
    "WRONGPASS": _Meaning(StoreAuthenticationFailed, "refused the user or the password: check REDIS_URL"),
    "NOPERM": _Meaning(
        StoreAuthenticationFailed,
        "does not allow this user everything that a queue needs; grant it the commands and the keys",
        quoted=True,
    ),
}
#: By what a reply says, in small letters, where its first word is no more than ``ERR``.
_BY_SIGN = {
    # passing
    "max number of clients": _NO_CONNECTION,
    "max concurrent connections": _NO_CONNECTION,
    "max requests limit": _REQUESTS_USED_UP,
    "max daily request limit": _REQUESTS_USED_UP,
    "db capacity quota": _Meaning(
        StoreUnavailable, "has used up its room: clean finished jobs (corral clean), or raise its plan"
    ),
    # lasting
    "without any password configured": _Meaning(
        StoreAuthenticationFailed, "has no password, but REDIS_URL brings one: remove it"
    ),
    "authentication required": _Meaning(
        StoreAuthenticationFailed, "wants a password: put it into REDIS_URL, redis://:PASSWORD@host"
    ),
    "invalid password": _Meaning(StoreAuthenticationFailed, "refused the user or the password: check REDIS_URL"),
    "db index is out of range": _Meaning(StoreUnsuitable, "has no such database", quoted=True),
    "select is not allowed in cluster": _Meaning(
        StoreUnsuitable, "is a node of a Cluster, which has only database 0", quoted=True
    ),
    "unknown command": _Meaning(
        StoreUnsuitable, "lacks a command that a queue needs (Redis 6.2 or newer is needed)", quoted=True
    ),
}
#: For a connection that looks for the key's server anew.
_FOLLOWED = {
    "MOVED": _Meaning(StoreUnavailable, "has just handed this queue to another node of its Cluster"),
    "ASK": _Meaning(StoreUnavailable, "is handing this queue to another node of its Cluster"),
}

# Redis 6.2 and Dragonfly wrap what a script's command was refused with.
_WITHIN_SCRIPT = re.compile(r"^ERR Error running script .*?: -?([A-Z]{3,}) ", re.DOTALL)
_WORDS = 300


def read_refusal(said: str, *, place: str = "Redis", follows: bool = False) -> StoreError | None:
    """What an error reply means.

    Args:
        said: The reply, with its first word and without the leading ``-``.
        place: The server, for the message.
        follows: Whether this connection finds the server of a Cluster's slot by itself, so that ``MOVED`` passes.

    Returns:
        None for a reply about the command, not about the server.
    """
    code = code_of(said)
    meaning = (_FOLLOWED.get(code) if follows else None) or _BY_CODE.get(code) or _by_sign(said)
    if meaning is None:
        return None
    words = f": {_one_line(said)}" if meaning.quoted else ""
    return meaning.error(f"{place} {meaning.what}{words}")


def code_of(said: str) -> str:
    """The word that names a refusal, also of a command within a script."""
    within = _WITHIN_SCRIPT.match(said)
    return within[1] if within else said.partition(" ")[0]


def _by_sign(said: str) -> _Meaning | None:
    text = said.lower()
    return next((meaning for sign, meaning in _BY_SIGN.items() if sign in text), None)


def _one_line(said: str) -> str:
    return " ".join(said.split())[:_WORDS]
