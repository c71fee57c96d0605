"""``corral mcp``: the code index for coding agents."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from corral.errors import CorralError, ExtraMissing
from corral.interfaces.cli.output import ExitCode, Output, exit_code_of
from corral.interfaces.cli.session import leave
from corral.interfaces.ports import refuse_taken_port
from corral.settings import read_settings

commands = typer.Typer()

_LOOPBACK = "127.0.0.1"


@commands.command()
def mcp(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Serve this folder; default: the indexed projects.")
    ] = None,
    *,
    http_port: Annotated[
        int | None,
        typer.Option(
            "--http", metavar="PORT", min=1, max=65535, help="Streamable HTTP on loopback, at /mcp; default: stdio."
        ),
    ] = None,
) -> None:
    """Serve code search to a coding agent by the Model Context Protocol, until it hangs up.

    A folder is indexed here and kept up to date, uncommitted changes included; Redis is not needed. Over HTTP only this
    machine is served; projects then ask for the HTTP API's tokens, once there are any.
    """
    output = Output()
    try:
        _serve(folder, http_port)
    except CorralError as error:
        leave(output.fail(error, code=exit_code_of(error)))
    except KeyboardInterrupt:
        if http_port is None:  # over HTTP it is how one ends it
            leave(output.fail(RuntimeError("interrupted"), code=ExitCode.INTERRUPTED))


def _serve(folder: Path | None, http_port: int | None) -> None:
    read_settings()  # what is wrong with them is told in one line
    if http_port is not None:
        refuse_taken_port(_LOOPBACK, http_port, option="--http")
        # The server raises the signal again when it has ended in order.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        from corral.interfaces.mcp import serve  # noqa: PLC0415 - an extra, and heavy

        serve(folder=folder, http_port=http_port, host=_LOOPBACK)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "corral":
            raise
        raise ExtraMissing(f"corral mcp needs {error.name}: pip install 'corral[index,mcp]'") from None
