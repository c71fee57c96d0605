"""Clients for any kind of Redis.

What belongs to a connection is found here: the address (:mod:`corral.wire.address`), what the client library's errors
mean (:mod:`corral.wire.faults`), and whether the server will do (:mod:`corral.wire.server`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff

from corral.errors import ConfigurationError
from corral.wire.address import HostPort, StoreAddress, StoreMode, is_true, parse_redis_url
from corral.wire.faults import translate_error, translate_errors
from corral.wire.server import ServerInfo, check_server

RedisClient = Redis
"""A ready client; the name by which rooms above ``wire`` know redis-py's."""

__all__ = [
    "HostPort",
    "RedisClient",
    "ServerInfo",
    "StoreAddress",
    "StoreMode",
    "check_server",
    "find_primary",
    "open_client",
    "parse_redis_url",
    "translate_error",
    "translate_errors",
]


class _SentinelRedis(Redis):
    """A client of the primary that closes its connections to the sentinels too."""

    sentinels: Sentinel | None = None

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's signature
        await super().aclose(close_connection_pool)
        if self.sentinels is not None:
            for client in self.sentinels.sentinels:
                await client.aclose()


def open_client(
    url: str | StoreAddress,
    *,
    client_name: str | None = None,
    connect_timeout: timedelta = timedelta(seconds=5),
    reply_timeout: timedelta | None = timedelta(seconds=30),
    max_connections: int | None = None,
    retries: int | None = None,
) -> Redis:
    """Make a client; it connects when first used, and again by itself after an outage.

    It speaks RESP2 without a greeting of the library's, so that a new connection costs no command but AUTH and SELECT
    (some servers bill each).

    Args:
        url: Address, or the address taken apart.
        client_name: What ``CLIENT LIST`` shows for its connections.
        connect_timeout: For TCP, TLS and authentication together.
        reply_timeout: For one reply; None to wait for ever. Commands that block need more than they may block.
        max_connections: At once; by default as many as there are concurrent commands (100 for each cluster node).
        retries: How often a command is sent again after its connection broke. A command whose reply was lost may have
            been executed, so it is 0 by default; but 3 in a cluster, where topology changes look like that.

    Returns:
        A client that decodes replies to ``str``. For a cluster it is a ``RedisCluster``, whose commands are the same.

    Raises:
        ConfigurationError: It isn't an address, or a TLS file can't be read.
    """
    address = parse_redis_url(url) if isinstance(url, str) else url
    address.tls_context()  # names a bad certificate file now, not at the first command
    if retries is None:
        retries = 3 if address.mode is StoreMode.CLUSTER else 0
    retry = Retry(ExponentialWithJitterBackoff(base=0.01, cap=1.0) if retries else NoBackoff(), retries)
    common: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "client_name": client_name,
        "socket_connect_timeout": connect_timeout.total_seconds(),
        "socket_timeout": None if reply_timeout is None else reply_timeout.total_seconds(),
        "decode_responses": True,
        "protocol": 2,
        "driver_info": None,
    }
    tls: dict[str, Any] = dict(address.tls_options)
    if "ssl_check_hostname" in tls:
        tls["ssl_check_hostname"] = is_true(tls["ssl_check_hostname"])
    if address.tls:
        tls["ssl"] = True
    if address.mode is StoreMode.CLUSTER:
        nodes = [ClusterNode(endpoint.host, endpoint.port) for endpoint in address.endpoints]
        cluster = RedisCluster(
            startup_nodes=nodes, retry=retry, max_connections=max_connections or 100, **common, **tls
        )
        return cast("Redis", cluster)
    common |= {"db": address.database, "retry": retry, "max_connections": max_connections}
    if address.mode is StoreMode.SENTINEL:
        return _open_sentinel(address, common, tls)
    if address.socket_path is not None:
        return Redis(unix_socket_path=address.socket_path, **common)
    (endpoint,) = address.endpoints
    return Redis(host=endpoint.host, port=endpoint.port, **common, **tls)


def _open_sentinel(address: StoreAddress, common: dict[str, Any], tls: dict[str, Any]) -> Redis:
    asked: dict[str, Any] = {
        "username": address.sentinel_username,
        "password": address.sentinel_password,
        # A sentinel that is away must not hold up the question to the next one.
        "socket_connect_timeout": min(common["socket_connect_timeout"], 2.0),
        "socket_timeout": 2.0,
        "protocol": 2,
        "driver_info": None,
        "retry": Retry(NoBackoff(), 0),
        **tls,
    }
    sentinels = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        [(e.host, e.port) for e in address.endpoints], sentinel_kwargs=asked
    )
    pool_options = {name: value for name, value in common.items() if value is not None}
    pool_options["driver_info"] = None
    client = sentinels.master_for(address.master_name or "", redis_class=_SentinelRedis, **pool_options, **tls)
    client.sentinels = sentinels
    return cast("Redis", client)


async def find_primary(address: StoreAddress) -> HostPort:
    """The server that takes writes, for a connection of one's own.

    Returns:
        A standalone's own endpoint, the primary that the sentinels agree on, or a cluster's first node.

    Raises:
        StoreUnavailable: No sentinel answers, or none knows the primary.
        ConfigurationError: A unix socket has none.
    """
    if address.socket_path is not None:
        raise ConfigurationError(f"{address} is a socket, not a host and port")
    if address.mode is not StoreMode.SENTINEL:
        return address.endpoints[0]
    client = open_client(address)
    try:
        with translate_errors(address):
            sentinels = cast("_SentinelRedis", client).sentinels
            assert sentinels is not None  # noqa: S101 - set by open_client; tells the type checker
            host, port = await sentinels.discover_master(address.master_name or "")
    finally:
        await client.aclose()
    return HostPort(host=str(host), port=int(port))
