"""What every test runs under: no network but loopback, and nobody's settings or data but its own."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.settings import Settings
from corral.testing.pytest_plugin import corral_prefix, corral_private_server, corral_server, recording_reporter

__all__ = ["corral_prefix", "corral_private_server", "corral_server", "kept_data_dir", "recording_reporter"]

KEPT_DATA_DIR = Settings(_env_file=None).data_dir
"""The data folder of whoever runs the tests; only what costs a long download (the local model) is kept there."""


class NetworkRefusedError(RuntimeError):
    """A test tried to reach something that is not on this machine."""


def _is_loopback(host: object) -> bool:
    """Whether an address is this machine's own; that of a Unix socket, or of nothing, is."""
    if isinstance(host, bytes):
        host = host.decode()
    if not isinstance(host, str) or host in {"", "localhost"}:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False  # a name: whoever resolves it asks a server elsewhere
    return address.is_loopback or address.is_unspecified


def _refuse_the_network() -> None:
    """Let Python's sockets reach loopback alone.

    Not by an audit hook: one in Python lets other threads run while a trace function is installed, which CPython 3.11
    answers with an error where two threads begin at the same time under coverage.
    """

    def check(host: object) -> None:
        if not _is_loopback(host):
            raise NetworkRefusedError(f"expected loopback, got {host!r}: tests may not use the network")

    def connecting(connect: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
        def connect_to(self: socket.socket, address: Any) -> Any:
            check(address[0] if isinstance(address, tuple) else None)
            return connect(self, address)

        return connect_to

    def asking(resolve: Callable[..., Any]) -> Callable[..., Any]:
        def resolve_it(host: object, *args: Any, **options: Any) -> Any:
            check(host)
            return resolve(host, *args, **options)

        return resolve_it

    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, connecting(getattr(socket.socket, name)))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, asking(getattr(socket, name)))


def pytest_configure(config: pytest.Config) -> None:
    """Close the network and hide the settings of whoever runs the tests, before any test module is imported."""
    _refuse_the_network()
    for name in list(os.environ):
        if name.startswith("CORRAL_") and not name.startswith("CORRAL_TEST_"):
            del os.environ[name]
    keys = ("GITHUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY")
    for name in ("REDIS_URL", *keys):
        os.environ.pop(name, None)
    own = tempfile.TemporaryDirectory(prefix="corral-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(own.cleanup)
    os.environ["CORRAL_DATA_DIR"] = own.name


@pytest.fixture(scope="session")
def kept_data_dir() -> Path:
    """The real data folder, for what is downloaded once and kept between runs."""
    return KEPT_DATA_DIR
