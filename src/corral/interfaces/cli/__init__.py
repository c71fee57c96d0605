"""The command line: ``corral``.

Thin: every command opens one :class:`corral.Corral`, asks it, and shows the answer for people (Rich) or for programs
(``--json``). ``app`` puts the commands together, ``session`` runs one, ``output`` shows and decides the exit code.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the console script ``corral``."""
    try:
        from corral.interfaces.cli.app import run  # noqa: PLC0415 - heavy, and an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "click", "rich"}:
            raise
        sys.stderr.write(f"corral: {error.name} is not installed. Mend: pip install 'corral[cli]'\n")
        raise SystemExit(6) from None
    run()
