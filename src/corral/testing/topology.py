"""A real Cluster and a real Sentinel set of a test's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from corral.errors import StoreUnavailable
from corral.testing.server import EmbeddedServer

_SLOTS = 16_384
_READY_S = 30.0
_SYNC_AT_ONCE = {"repl-diskless-sync-delay": "0"}  # by default a primary waits 5 s for more replicas


class EmbeddedCluster:
    """Three primaries that share the slots, and one replica for each that is asked for.

    Args:
        replicas_of: Indexes of the primaries (0 to 2) that get a replica, which takes over when its primary dies.
        node_timeout_ms: How long a node may be silent before the others count it as dead.
    """

    def __init__(self, *, replicas_of: tuple[int, ...] = (0, 1, 2), node_timeout_ms: int = 1000) -> None:
        options = {"cluster-enabled": "yes", "cluster-node-timeout": str(node_timeout_ms), **_SYNC_AT_ONCE}
        self.primaries = [EmbeddedServer(options=options) for _ in range(3)]
        self.replicas = [EmbeddedServer(options=options) for _ in replicas_of]
        self._replicas_of = replicas_of

    @property
    def url(self) -> str:
        """``redis+cluster://`` address of all primaries."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.primaries)

    @property
    def servers(self) -> list[EmbeddedServer]:
        """Every node."""
        return [*self.primaries, *self.replicas]

    def start(self) -> Self:
        """Start and join the nodes; returns when every one of them knows all the others and the slots.

        Raises:
            StoreUnavailable: They don't come together.
        """
        for server in self.servers:
            server.start()
        first = self.primaries[0]
        share = -(-_SLOTS // len(self.primaries))
        for number, server in enumerate(self.primaries):
            last = min(_SLOTS, (number + 1) * share) - 1
            _expect_ok(server.command("CLUSTER", "ADDSLOTSRANGE", str(number * share), str(last)))
        for server in self.servers[1:]:
            _expect_ok(server.command("CLUSTER", "MEET", "127.0.0.1", str(first.port)))
        _wait(lambda: all(self._knows_all(server) for server in self.servers), "the Cluster's nodes don't meet")
        for index, replica in zip(self._replicas_of, self.replicas, strict=True):
            primary_id = self.primaries[index].command("CLUSTER", "MYID").splitlines()[-1]
            _expect_ok(replica.command("CLUSTER", "REPLICATE", primary_id))
        _wait(self._is_ready, "the Cluster does not become ready")
        return self

    def server_of(self, key: str) -> EmbeddedServer:
        """The node that serves a key now, and takes writes to it.

        Raises:
            StoreUnavailable: None does.
        """
        for server in self.servers:
            if server.running and server.command("ROLE").startswith("*3\r\n$6\r\nmaster"):
                reply = server.command("GET", key)
                if not reply.startswith(("-MOVED", "-CLUSTERDOWN")):
                    return server
        raise StoreUnavailable(f"no node of the Cluster serves {key!r}")

    def close(self) -> None:
        """Kill all nodes and remove their files."""
        for server in self.servers:
            server.close()

    def _knows_all(self, server: EmbeddedServer) -> bool:
        return f"cluster_known_nodes:{len(self.servers)}\r\n" in server.command("CLUSTER", "INFO")

    def _is_ready(self) -> bool:
        healthy = all("cluster_state:ok" in server.command("CLUSTER", "INFO") for server in self.servers)
        linked = all("master_link_status:up" in server.command("INFO", "replication") for server in self.replicas)
        seen = all(
            server.command("CLUSTER", "NODES").count(" slave ")
            + server.command("CLUSTER", "NODES").count("myself,slave ")
            == len(self.replicas)
            for server in self.servers
        )
        return healthy and linked and seen

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class EmbeddedSentinels:
    """A primary, a replica, and three sentinels that make the replica the primary when the primary dies.

    Args:
        master_name: What the sentinels call the primary.
        down_after_ms: How long it may be silent before they count it as dead.
    """

    def __init__(self, *, master_name: str = "main", down_after_ms: int = 500) -> None:
        self.master_name = master_name
        self.primary = EmbeddedServer(options=_SYNC_AT_ONCE)
        self.replica = EmbeddedServer(options={"replicaof": f"127.0.0.1 {self.primary.port}", **_SYNC_AT_ONCE})
        self.sentinels = [
            EmbeddedServer(
                options={
                    f"sentinel monitor {master_name}": f"127.0.0.1 {self.primary.port} 2",
                    f"sentinel down-after-milliseconds {master_name}": str(down_after_ms),
                    f"sentinel failover-timeout {master_name}": "5000",
                },
                arguments=("--sentinel",),
            )
            for _ in range(3)
        ]

    @property
    def url(self) -> str:
        """``redis+sentinel://`` address."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.master_name}"

    def start(self) -> Self:
        """Start all; returns when the sentinels know each other and the replica.

        Raises:
            StoreUnavailable: They don't come together.
        """
        self.primary.start()
        self.replica.start()
        _wait(
            lambda: "master_link_status:up" in self.replica.command("INFO", "replication"),
            "the replica does not find its primary",
        )
        for server in self.sentinels:
            server.start()
        _wait(lambda: all(map(self._is_ready, self.sentinels)), "the sentinels don't find each other")
        return self

    def current_primary(self) -> EmbeddedServer | None:
        """The server that the sentinels name as the primary now; None while they don't agree."""
        named = {
            server.command("SENTINEL", "get-master-addr-by-name", self.master_name)
            for server in self.sentinels
            if server.running
        }
        if len(named) != 1:
            return None
        port = int(named.pop().split("\r\n")[4])
        return next((server for server in (self.primary, self.replica) if server.port == port), None)

    def close(self) -> None:
        """Kill all and remove their files."""
        for server in (*self.sentinels, self.replica, self.primary):
            server.close()

    def _is_ready(self, server: EmbeddedServer) -> bool:
        return f"status=ok,address=127.0.0.1:{self.primary.port},slaves=1,sentinels=3" in server.command("INFO")

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _expect_ok(reply: str) -> None:
    if not reply.startswith("+OK"):
        raise StoreUnavailable(f"expected +OK, got {reply!r}")


def _wait(ready: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _READY_S
    while not ready():
        if time.monotonic() > deadline:
            raise StoreUnavailable(f"{otherwise} within {_READY_S:.0f} s")
        time.sleep(0.02)
