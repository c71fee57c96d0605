"""Running one command: opens Corral, does it, and turns what went wrong into one line and an exit code."""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from corral import pipeline
from corral.client import Corral
from corral.errors import ConfigurationError, CorralError, UnknownJobType
from corral.interfaces.cli.output import ExitCode, Output, exit_code_of
from corral.settings import read_settings

Command = Callable[[Corral, Output], Awaitable[ExitCode | None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Invocation:
    """What was said before the command's own name."""

    app: str | None = None
    """``package.module:attribute`` of the user's own :class:`Corral`."""
    debug: bool = False


def load_app(path: str) -> Corral:
    """The user's own Corral, from ``package.module:attribute``.

    Raises:
        ConfigurationError: There is no such module or attribute, or it is something else.
    """
    module_name, separator, attribute = path.partition(":")
    if not separator or not module_name or not attribute:
        raise ConfigurationError(f"--app: expected package.module:attribute, got {path!r}")
    # As `python -m` does: what lies in the folder where the command was started can be named.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--app: no module named {error.name!r}. Mend: start in the folder that holds it"
        ) from None
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigurationError(f"--app: {module_name!r} has no attribute {attribute!r}")
        found = getattr(found, name)
    if not isinstance(found, Corral):
        raise ConfigurationError(f"--app: expected a corral.Corral, {path!r} is of type {type(found).__name__!r}")
    return found


def open_corral(invocation: Invocation) -> Corral:
    """The Corral that the command is about: the user's own, or one with the four job types and the pipeline."""
    if invocation.app:
        return load_app(invocation.app)
    corral = Corral(settings=read_settings())
    pipeline.register(corral)
    return corral


async def known_job_type(corral: Corral, name: str) -> str:
    """``name`` when the queue is declared here or exists in Redis (its workers may live elsewhere, in Node say).

    Raises:
        UnknownJobType: Neither.
    """
    if name in corral.job_types:
        return name
    if await corral.redis.exists(f"{corral.prefix}:{name}:meta", f"{corral.prefix}:{name}:id"):
        corral.declare(name)
        return name
    known = ", ".join(sorted(corral.job_types))
    raise UnknownJobType(f"expected one of {known}, or a queue that exists, got {name!r}. Mend: check the spelling")


def run(
    context: typer.Context, command: Command, *, json: bool, invocation: Invocation | None = None, fast: bool = False
) -> None:
    """Run ``command`` with an open Corral and leave with its exit code; ``fast`` prefers uvloop."""
    said: Invocation = invocation or context.obj or Invocation()

    async def opened(output: Output) -> ExitCode | None:
        async with open_corral(said) as corral:
            return await command(corral, output)

    leave(guarded(opened, Output(as_json_lines=json), debug=said.debug, fast=fast))


async def _interruptible(action: Coroutine[Any, Any, ExitCode | None]) -> ExitCode | None:
    """Let SIGTERM do what Ctrl-C does: stop the command in order, so that nothing half-done stays behind."""
    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await action


def leave(code: ExitCode) -> None:
    """End the process unless all is well."""
    if code is not ExitCode.OK:
        raise typer.Exit(int(code))


def _run_fast(action: Coroutine[Any, Any, ExitCode | None]) -> ExitCode | None:
    """As ``asyncio.run``, on uvloop where it is installed: a worker then takes a tenth less processor time per job."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return asyncio.run(action)
    return uvloop.run(action)


def guarded(
    action: Callable[[Output], Coroutine[Any, Any, ExitCode | None]], output: Output, *, debug: bool, fast: bool = False
) -> ExitCode:
    """Run ``action``; a user's mistake gets one clear line, never a stack trace."""
    try:
        return (_run_fast if fast else asyncio.run)(_interruptible(action(output))) or ExitCode.OK
    except CorralError as error:
        if debug:
            traceback.print_exc()
        return output.fail(error, code=exit_code_of(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return output.fail(RuntimeError("interrupted"), code=ExitCode.INTERRUPTED)
    except (typer.Exit, typer.BadParameter, typer.Abort):
        raise
    except BrokenPipeError:  # `corral ... | head`
        sys.stderr.close()
        return ExitCode.OK
    except Exception as error:  # noqa: BLE001 - the one place where everything ends
        if debug:
            traceback.print_exc()
        described = RuntimeError(f"unexpected {type(error).__name__}: {error} (corral --debug shows where)")
        return output.fail(described, code=ExitCode.INTERNAL)
