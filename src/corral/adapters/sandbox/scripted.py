"""The sandbox's double: runs Python functions in the place of commands, in memory, within the same time and output."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from corral.adapters.sandbox.port import (
    SUPPORT,
    WORKSPACE,
    OutputSink,
    Reaped,
    RunEnding,
    Sandbox,
    SandboxRequest,
    SandboxResult,
    base_environment,
)

_NOT_FOUND = 127


class _OutputFull(Exception):
    pass


@dataclass(slots=True)
class ScriptedProcess:
    """What a scripted program sees."""

    request: SandboxRequest
    #: All variables, the sandbox's own included.
    env: Mapping[str, str]
    _write: Callable[[bytes], None] = field(repr=False)

    def write(self, output: bytes | str) -> None:
        """Print."""
        self._write(output.encode() if isinstance(output, str) else output)

    def path(self, inside: str) -> Path:
        """Return the real path of a path inside: below the worktree or a mount.

        Raises:
            FileNotFoundError: It is below neither.
        """
        wanted = PurePosixPath(inside)
        places = [(mount.target, mount.source) for mount in self.request.mounts]
        places.append((WORKSPACE, self.request.worktree))
        for target, source in sorted(places, key=lambda place: len(str(place[0])), reverse=True):
            if wanted.is_relative_to(target):
                return source / wanted.relative_to(target)
        raise FileNotFoundError(f"nothing is mounted at {inside!r} (nor at {SUPPORT})")


Program = Callable[[ScriptedProcess], Awaitable[int]]
"""Returns its exit code; a negative one is the number of the signal that ended it."""


class ScriptedSandbox(Sandbox):
    """Answers each command with a program that a test gave."""

    name = "scripted"

    def __init__(self, programs: Mapping[str, Program] | None = None, *, default: Program | None = None) -> None:
        """Take programs.

        Args:
            programs: Last word of the command (for ``sh -c``, its text) → program.
            default: For all other commands; None: not found, exit code 127.
        """
        self._programs = dict(programs or {})
        self._default = default
        #: Every request, in order.
        self.requests: list[SandboxRequest] = []
        #: Raised by the next runs when set.
        self.fail_with: BaseException | None = None

    async def check(self) -> str:
        """See ``Sandbox.check``."""
        return "1"

    async def run(self, request: SandboxRequest, on_output: OutputSink) -> SandboxResult:
        """See ``Sandbox.run``."""
        self.requests.append(request)
        if self.fail_with is not None:
            raise self.fail_with
        began, printed = time.monotonic(), 0

        def write(chunk: bytes) -> None:
            nonlocal printed
            room = max(0, request.limits.output_bytes - printed)
            printed += len(chunk)
            if chunk[:room]:
                on_output(chunk[:room])
            if printed > request.limits.output_bytes:
                raise _OutputFull

        ending, code, detail = RunEnding.EXITED, None, ""
        program = self._programs.get(request.command[-1], self._default)
        if program is None:
            code = _NOT_FOUND
        else:
            process = ScriptedProcess(request, {**base_environment("/bin"), **request.env}, write)
            timed_out = asyncio.timeout(request.timeout.total_seconds())
            with contextlib.suppress(TimeoutError, _OutputFull):
                async with timed_out:
                    code = await program(process)
            if timed_out.expired():
                ending, detail = RunEnding.TIMEOUT, f"ran longer than {request.timeout.total_seconds():g} s"
            elif code is None:
                ending, detail = RunEnding.OUTPUT_LIMIT, f"printed more than {request.limits.output_bytes} bytes"
        signalled = code is not None and code < 0
        return SandboxResult(
            ending=RunEnding.SIGNALLED if signalled else ending,
            exit_code=None if signalled else code,
            signal=-code if code is not None and signalled else None,
            seconds=time.monotonic() - began,
            output_bytes=printed,
            detail=detail,
        )

    async def reap(self) -> Reaped:
        """See ``Sandbox.reap``; nothing is ever left."""
        return Reaped()
