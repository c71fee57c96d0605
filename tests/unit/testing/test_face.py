"""What the test kit offers, and that none of it is loaded before it is used."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import corral.testing as kit


def test_every_name_is_there_and_sorted() -> None:
    assert kit.__all__ == sorted(kit.__all__)
    for name in kit.__all__:
        assert getattr(kit, name).__doc__
    with pytest.raises(AttributeError, match="NoSuchDouble"):
        kit.NoSuchDouble  # noqa: B018 - the lookup is the test


def test_doubles_are_loaded_when_they_are_used() -> None:
    program = "import sys, corral.testing; print(*[m for m in sys.modules if m.startswith('corral.adapters.')])"
    out = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "src"},
    ).stdout
    assert out.strip() == ""
