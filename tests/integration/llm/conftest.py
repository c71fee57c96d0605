"""A server of their own: the cache's keys have no prefix, so these tests empty it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from corral.testing import EmbeddedServer


@pytest.fixture(scope="package")
def own_server() -> Iterator[EmbeddedServer]:
    """A server that only these tests use."""
    with EmbeddedServer() as server:
        yield server
