"""The metrics of a worker's process: who is served them, and from where."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client import Counter
from tests.integration.interfaces.samples import TokenFactory

from corral.client import Corral
from corral.errors import ConfigurationError
from corral.interfaces.cli.observing import metrics_served
from corral.interfaces.observability.telemetry import Telemetry
from corral.testing.server import free_port


@pytest.fixture
async def counted(corral: Corral) -> Corral:
    telemetry = Telemetry()
    Counter("sheep", "Counted.", registry=telemetry.registry).inc(3)
    corral.observer = telemetry
    return corral


async def ask(port: int, **headers: str) -> tuple[int, bytes]:
    def fetch() -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    return await asyncio.to_thread(fetch)


async def test_metrics_are_served_on_loopback_until_the_end(counted: Corral) -> None:
    port = free_port()

    async with metrics_served(counted, port):
        status, body = await ask(port)
        assert (status, b"sheep_total 3.0" in body) == (200, True)
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))
    with socket.socket() as after, pytest.raises(ConnectionRefusedError):
        after.connect(("127.0.0.1", port))


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Host"])
async def test_without_a_token_no_stranger_is_served(counted: Corral, header: str) -> None:
    port = free_port()

    async with metrics_served(counted, port):
        status, body = await ask(port, **{header: "evil.example"})

    assert (status, b"sheep" in body) == (403, False)


async def test_once_there_is_a_token_one_is_needed(counted: Corral, token_for: TokenFactory) -> None:
    reader, submitter = await token_for("ann", "read"), await token_for("ann", "submit")
    port = free_port()

    async with metrics_served(counted, port):
        assert (await ask(port))[0] == 401
        assert (await ask(port, Authorization="Bearer corral_0123456789abcdef_" + "A" * 43))[0] == 401
        assert (await ask(port, Authorization=f"Bearer {submitter}"))[0] == 403
        status, body = await ask(port, Authorization=f"Bearer {reader}")
    assert (status, b"sheep_total 3.0" in body) == (200, True)


async def test_another_address_than_loopback_needs_a_token(counted: Corral) -> None:
    with pytest.raises(ConfigurationError, match="expected a loopback address"):
        async with metrics_served(counted, free_port(), host="0.0.0.0"):  # noqa: S104 - must be refused
            pass
    counted.settings = counted.settings.model_copy(update={"metrics_host": "192.0.2.1"})
    with pytest.raises(ConfigurationError, match=r"got '192\.0\.2\.1'"):
        async with metrics_served(counted, free_port()):
            pass


async def test_a_taken_port_is_told(counted: Corral) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="choose another with --metrics-port"):
            async with metrics_served(counted, taken.getsockname()[1]):
                pass
