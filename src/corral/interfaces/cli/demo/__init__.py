"""``corral demo``: a prompt to a pull request on a real repository, with nothing but this machine."""

from __future__ import annotations

from corral.interfaces.cli.demo.command import commands

__all__ = ["commands"]
