from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.container_engine import make_podman


@pytest.fixture(scope="session")
def podman() -> Iterator[Path]:
    """A Podman of the tests' own, with an image."""
    # Not pytest's own folder: Podman wants paths of at most 50 characters.
    with tempfile.TemporaryDirectory(prefix="pod-") as folder:
        try:
            yield make_podman(Path(folder))
        except LookupError as error:
            pytest.skip(str(error))
