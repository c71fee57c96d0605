"""Fixtures; ``pytest_plugins = ["corral.testing.pytest_plugin"]`` in the top ``conftest.py`` brings them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from corral.testing.reporter import RecordingReporter
from corral.testing.server import EmbeddedServer


@pytest.fixture(scope="session")
def corral_server() -> Iterator[EmbeddedServer]:
    """One real server for the whole run; give each test a prefix of its own (``corral_prefix``)."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def corral_private_server() -> Iterator[EmbeddedServer]:
    """A real server for one test, to be stopped, killed and frozen as it likes.

    It writes its append-only file before it answers: on a busy disk, the customary ``everysec`` may put writes off for
    two seconds, and a killed server then forgets what it had answered.
    """
    with EmbeddedServer(options={"appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def corral_prefix() -> str:
    """A key prefix that no other test uses."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def recording_reporter() -> RecordingReporter:
    """Keeps what a handler reports."""
    return RecordingReporter()
