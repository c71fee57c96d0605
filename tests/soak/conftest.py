"""The crews and servers of the chaos tests."""

from __future__ import annotations

from tests.integration.chaos.conftest import corral_private_server, make_crew

__all__ = ["corral_private_server", "make_crew"]
