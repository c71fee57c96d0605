"""No test reaches anything but loopback."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest

OUTSIDE = "192.0.2.1"  # RFC 5737: nobody's


def test_addresses_elsewhere_are_refused() -> None:
    with socket.socket() as asked:
        asked.settimeout(1)
        with pytest.raises(RuntimeError, match="expected loopback"):
            asked.connect((OUTSIDE, 80))
        with pytest.raises(RuntimeError, match="expected loopback"):
            asked.connect_ex((OUTSIDE, 80))


def test_names_are_not_asked_of_servers_elsewhere() -> None:
    with pytest.raises(RuntimeError, match="expected loopback"):
        socket.getaddrinfo("example.com", 80)
    with pytest.raises(RuntimeError, match="expected loopback"):
        urllib.request.urlopen("http://example.com/")


async def test_nor_by_asyncio() -> None:
    with pytest.raises(RuntimeError, match="expected loopback"):
        await asyncio.open_connection("example.com", 80)
    with pytest.raises(RuntimeError, match="expected loopback"):
        await asyncio.open_connection(OUTSIDE, 80)


def test_loopback_is_reached() -> None:
    with socket.create_server(("localhost", 0)) as server, socket.create_connection(server.getsockname()) as asked:
        answered, _ = server.accept()
        with answered:
            asked.sendall(b"hello")
            assert answered.recv(5) == b"hello"
