"""Clients on real servers: each kind of address, each way to be refused."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from corral.errors import StoreAuthenticationFailed, StoreError, StoreUnavailable, StoreUnsuitable
from corral.testing import EmbeddedCluster, EmbeddedSentinels, EmbeddedServer, TcpProxy
from corral.testing.server import free_port
from corral.wire.connection import (
    StoreMode,
    check_server,
    find_primary,
    open_client,
    parse_redis_url,
    translate_errors,
)


async def ask(url: str) -> None:
    """Connect and ask something small, with errors translated as everywhere."""
    async with open_client(url, connect_timeout=timedelta(seconds=2), reply_timeout=timedelta(seconds=2)) as client:
        with translate_errors(url):
            await client.get("x")


@pytest.fixture(scope="module")
def locked_server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(options={"requirepass": "secret-word"}) as server:
        yield server


async def test_replies_are_text_and_a_new_connection_costs_no_command(corral_server: EmbeddedServer) -> None:
    async with open_client(corral_server.url) as client:
        await client.set("greeting", "hällo")
        assert await client.get("greeting") == "hällo"
        await client.config_resetstat()
        async with open_client(corral_server.url) as second:
            await second.get("greeting")
        assert set(await client.info("commandstats")) <= {"cmdstat_get", "cmdstat_info", "cmdstat_config|resetstat"}


async def test_the_database_number_and_the_name_are_used(corral_server: EmbeddedServer) -> None:
    async with open_client(f"{corral_server.url}/3", client_name="here") as client:
        (mine,) = [one for one in await client.client_list() if one["name"] == "here"]
        assert mine["db"] == "3"


async def test_passwords(locked_server: EmbeddedServer, corral_server: EmbeddedServer) -> None:
    await ask(locked_server.url)
    bare = f"redis://127.0.0.1:{locked_server.port}"
    with pytest.raises(StoreAuthenticationFailed, match="wants a password"):
        await ask(bare)
    with pytest.raises(StoreAuthenticationFailed, match="check REDIS_URL") as caught:
        await ask(f"redis://:wrong-word@127.0.0.1:{locked_server.port}")
    assert "wrong-word" not in str(caught.value)
    with pytest.raises(StoreAuthenticationFailed):
        await ask(f"redis://:needless@127.0.0.1:{corral_server.port}")


async def test_a_user_who_may_not_run_scripts(corral_private_server: EmbeddedServer) -> None:
    corral_private_server.command("ACL", "SETUSER", "small", "on", ">pw", "~*", "+@read")
    async with open_client(f"redis://small:pw@127.0.0.1:{corral_private_server.port}") as client:
        with pytest.raises(StoreAuthenticationFailed, match="set"), translate_errors():
            await client.set("a", "1")


async def test_nobody_there() -> None:
    port = free_port()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port} can't be reached: connection refused"):
        await ask(f"redis://127.0.0.1:{port}")
    with pytest.raises(StoreUnavailable, match="no such socket"):
        await ask("unix:///nowhere/valkey.sock")


async def test_a_server_that_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        async with open_client(url, reply_timeout=timedelta(milliseconds=100)) as client:
            with pytest.raises(StoreUnavailable, match="does not answer in time"), translate_errors():
                await client.get("x")


async def test_no_such_database(corral_server: EmbeddedServer) -> None:
    with pytest.raises(StoreUnsuitable, match="no such database"):
        await ask(f"{corral_server.url}/99")


async def test_a_client_survives_a_restart(corral_private_server: EmbeddedServer) -> None:
    async with open_client(corral_private_server.url) as client:
        await client.set("a", "1")
        await asyncio.to_thread(corral_private_server.restart)
        assert await client.get("a") == "1"
        corral_private_server.kill()
        with pytest.raises(StoreUnavailable), translate_errors():
            await client.get("a")
        await asyncio.to_thread(corral_private_server.start)
        assert await client.get("a") == "1"


async def test_nothing_is_sent_twice_by_itself(corral_server: EmbeddedServer) -> None:
    async with TcpProxy(corral_server.port) as proxy, open_client(corral_server.url) as direct:
        await direct.delete("counter")
        async with open_client(proxy.url_for(corral_server.url), reply_timeout=timedelta(milliseconds=200)) as client:
            await client.incr("counter")
            proxy.drop_replies = True
            with pytest.raises(StoreUnavailable, match="does not answer in time"), translate_errors():
                await client.incr("counter")
            assert await direct.get("counter") == "2"
            proxy.mend()
            assert await client.incr("counter") == 3  # on a new connection, by itself


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_an_evicting_server_is_refused(policy: str) -> None:
    with EmbeddedServer(options={"maxmemory-policy": policy}) as server:
        async with open_client(server.url) as client:
            with pytest.raises(StoreUnsuitable, match=f"{policy}.*CONFIG SET maxmemory-policy noeviction"):
                await check_server(client, server.url)
            await client.config_set("maxmemory-policy", "noeviction")  # what the message says mends it
            assert (await check_server(client)).eviction_policy == "noeviction"


async def test_a_managed_server_without_config_is_checked(corral_private_server: EmbeddedServer) -> None:
    corral_private_server.command("ACL", "SETUSER", "tenant", "on", ">pw", "~*", "+@all", "-config", "-@admin")
    async with open_client(f"redis://tenant:pw@127.0.0.1:{corral_private_server.port}") as client:
        info = await check_server(client)
        assert (info.product, info.eviction_policy, info.mode) == ("valkey", "noeviction", StoreMode.STANDALONE)


async def test_a_full_server_is_said() -> None:
    with EmbeddedServer(options={"maxmemory": "3mb"}) as server:
        async with open_client(server.url) as client:
            with pytest.raises(StoreUnavailable, match="used up its memory"), translate_errors():
                await asyncio.gather(*(client.set(f"k{number}", "x" * 1_000_000) for number in range(10)))
            info = await check_server(client)
            assert info.memory_used is not None
            assert info.memory_used > 0.5


async def test_a_server_without_persistence_is_warned_of() -> None:
    with EmbeddedServer(options={"appendonly": "no"}) as server:
        async with open_client(server.url) as client:
            (warning,) = (await check_server(client)).warnings
            assert "appendonly" in warning


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for localhost, and its key, in one folder."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    subprocess.run(
        [
            *[
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ],
            *["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path


async def test_tls(corral_server: EmbeddedServer, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with TcpProxy(corral_server.port, tls=context) as proxy:
        host = f"127.0.0.1:{proxy.port}"
        await ask(f"rediss://{host}?ssl_ca_certs={certificate / 'cert.pem'}")
        await ask(f"rediss://{host}?ssl_cert_reqs=none")
        with pytest.raises(StoreUnavailable, match="can't be trusted"):
            await ask(f"rediss://{host}")
        with pytest.raises(StoreUnavailable, match="try rediss://"):
            await ask(f"redis://{host}")
    with pytest.raises(StoreUnavailable, match="try redis://"):
        await ask(f"rediss://127.0.0.1:{corral_server.port}")


@pytest.fixture
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


@pytest.fixture
def sentinels() -> Iterator[EmbeddedSentinels]:
    with EmbeddedSentinels() as sentinels:
        yield sentinels


async def test_a_cluster_of_one_node() -> None:
    """As a developer has it, or a managed Cluster with a single shard."""
    with EmbeddedServer(options={"cluster-enabled": "yes"}) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        async with asyncio.timeout(10):
            while "cluster_state:ok" not in await asyncio.to_thread(server.command, "CLUSTER", "INFO"):
                await asyncio.sleep(0.02)
        url = f"redis+cluster://127.0.0.1:{server.port}"
        async with open_client(url) as client:
            info = await check_server(client, url)
            assert (info.mode, info.eviction_policy, info.append_only) == (StoreMode.CLUSTER, "noeviction", True)
            assert info.used_memory_bytes is not None
            server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            with pytest.raises(StoreUnsuitable, match="allkeys-lru"):
                await check_server(client, url)


async def test_a_cluster_and_its_failover(cluster: EmbeddedCluster) -> None:
    async with open_client(cluster.url) as client:
        info = await check_server(client, cluster.url)
        assert (info.mode, info.eviction_policy) == (StoreMode.CLUSTER, "noeviction")
        await client.set("{bull}a", "1")
        serving = await asyncio.to_thread(cluster.server_of, "{bull}a")
        serving.kill()
        assert await eventually_get(client, "{bull}a", cluster.url) == "1"
    other = next(server for server in cluster.primaries if server.running)
    async with open_client(other.url) as single:
        with pytest.raises(StoreUnsuitable, match=r"redis\+cluster://"):
            await check_server(single)


async def test_sentinels_and_their_failover(sentinels: EmbeddedSentinels) -> None:
    address = parse_redis_url(sentinels.url)
    assert (await find_primary(address)).port == sentinels.primary.port
    async with open_client(sentinels.url) as client:
        assert (await check_server(client)).mode is StoreMode.SENTINEL
        await client.set("a", "1")
        await client.wait(1, 1000)
        sentinels.primary.kill()
        assert await eventually_get(client, "a", sentinels.url) == "1"
    assert (await find_primary(address)).port == sentinels.replica.port
    for url, says in (
        (sentinels.sentinels[0].url, r"redis\+sentinel://"),
        (sentinels.url.replace("/main", "/other"), "no sentinel answers, or none knows"),
    ):
        async with open_client(url) as wrong:
            with pytest.raises((StoreUnsuitable, StoreUnavailable), match=says):
                await check_server(wrong)


async def test_a_replica_is_refused(corral_server: EmbeddedServer) -> None:
    with EmbeddedServer(options={"replicaof": f"127.0.0.1 {corral_server.port}"}) as replica:
        async with open_client(replica.url) as client:
            with pytest.raises(StoreError, match=r"replica of 127\.0\.0\.1|still loading"):
                await check_server(client)


async def eventually_get(client: object, key: str, url: str) -> str:
    """Read a key as soon as somebody serves it again."""
    while True:
        try:
            with translate_errors(url):
                return str(await client.get(key))  # type: ignore[attr-defined]
        except StoreUnavailable:
            await asyncio.sleep(0.05)
