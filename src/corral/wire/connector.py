"""Where the connections of a pipe go: straight to a server, to the master that Sentinel names, or to a Cluster's node.

Asked anew before every connection, so that a fail-over is followed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import cast

from redis.asyncio import RedisCluster

from corral.errors import StoreUnavailable, StoreUnsuitable
from corral.wire.address import StoreAddress, StoreMode
from corral.wire.connection import find_primary, open_client
from corral.wire.faults import translate_errors
from corral.wire.pipe import Connector, Endpoint

_LOOKUP = timedelta(seconds=2)


def connector(address: StoreAddress, prefix: str) -> Connector:
    """Make the connector of an address.

    Args:
        address: Where Redis is.
        prefix: BullMQ's prefix; on a Cluster its hash tag decides which node holds all queues.

    Raises:
        StoreUnsuitable: A Cluster, and the prefix has no hash tag.
    """
    tls = address.tls_context()
    if address.mode is StoreMode.CLUSTER and not _has_hash_tag(prefix):
        raise StoreUnsuitable(
            f"On a Redis Cluster all keys of BullMQ must share one hash slot: the prefix {prefix!r} needs a hash tag, "
            f"for example CORRAL_PREFIX='{{{prefix}}}'."
        )

    def endpoint(host: str | None, port: int) -> Endpoint:
        return Endpoint(
            host=host,
            port=port,
            unix_path=address.socket_path,
            ssl_context=tls,
            username=address.username,
            password=address.password,
            database=address.database,
        )

    async def locate() -> Endpoint:
        if address.socket_path is not None:
            return endpoint(None, 0)
        if address.mode is StoreMode.CLUSTER:
            host, port = await _cluster_node(address, prefix)
            return endpoint(host, port)
        if address.mode is StoreMode.STANDALONE:
            only = address.endpoints[0]
            return endpoint(only.host, only.port)
        primary = await find_primary(address)
        return endpoint(primary.host, primary.port)

    return locate


def _has_hash_tag(prefix: str) -> bool:
    start = prefix.find("{")
    return start >= 0 and prefix.find("}", start) > start + 1


async def _cluster_node(address: StoreAddress, prefix: str) -> tuple[str, int]:
    """The master of the slot that the prefix's hash tag falls into."""
    cluster = cast("RedisCluster", open_client(address, connect_timeout=_LOOKUP, reply_timeout=_LOOKUP, retries=0))
    try:
        with translate_errors(address):
            await cluster.initialize()
            node = cluster.get_node_from_key(f"{prefix}:")
    finally:
        await cluster.aclose()
    if node is None:
        raise StoreUnavailable(f"The Redis Cluster at {address} serves nobody the slot of {prefix!r} now.")
    return str(node.host), int(node.port)
