"""Fixtures of the test kit, for its own tests."""

from __future__ import annotations

from corral.testing.pytest_plugin import corral_server

__all__ = ["corral_server"]
