"""What tests of indexing share."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore


@pytest.fixture(scope="module")
def embedder() -> StaticEmbedder:
    return StaticEmbedder()


@pytest.fixture
def store(tmp_path: Path) -> LocalIndexStore:
    return LocalIndexStore(tmp_path / "indexes")
