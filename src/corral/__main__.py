"""``python -m corral`` is ``corral``."""

from __future__ import annotations

from corral.interfaces.cli import main

main()
