"""Fixtures of the test kit, for these tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.testing.pytest_plugin import corral_private_server, corral_server
from corral.wire.embedded import stop_embedded

__all__ = ["corral_private_server", "corral_server"]


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncIterator[Path]:
    """A data folder whose embedded server is stopped at the end."""
    folder = tmp_path / "data"
    yield folder
    await asyncio.shield(stop_embedded(folder))
