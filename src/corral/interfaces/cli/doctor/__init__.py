"""``corral doctor``: what is wrong here, and how to mend it."""

from __future__ import annotations

from corral.interfaces.cli.doctor.command import commands

__all__ = ["commands"]
