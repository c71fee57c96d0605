"""Seams of a job's work, where a worker can be killed or a job cancelled: before and after each Redis and git command.

``python -m tests.support.killing MODULE:FUNCTION SEAM ARGUMENTS…`` runs the async function with the arguments, and
kills itself at a seam. ``SEAM`` counts from 1; 0 lives. What it passed is written to ``seams.txt`` in the working
folder.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import corral.adapters.git
from corral.adapters.git import Git


class Seams:
    """Counts what was passed, and acts at one.

    Args:
        at: Which one, from 1; 0 is none.
        act: What happens there.
    """

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self._at = at
        self._act = act
        #: Names of all that were passed.
        self.passed: list[str] = []

    def pass_(self, name: str) -> None:
        """Come to the next one."""
        self.passed.append(name)
        if len(self.passed) == self._at:
            self._act()

    def sew(self, patch: pytest.MonkeyPatch) -> None:
        """Make seams of what is sent to Redis, of what git is told to do, and of its having started."""
        send: Any = Redis.execute_command
        run: Any = Git.run
        start: Any = vars(corral.adapters.git)["start_group"]

        async def execute_command(client: Any, *args: Any, **options: Any) -> Any:
            name = f"redis {str(args[0]).lower()}"
            self.pass_(f"{name}: before")
            reply = await send(client, *args, **options)
            self.pass_(f"{name}: after")
            return reply

        async def run_git(git: Git, *args: str, **options: Any) -> Any:
            self.pass_(f"git {args[0]}: before")
            printed = await run(git, *args, **options)
            self.pass_(f"git {args[0]}: after")
            return printed

        async def start_group(*command: Any, **options: Any) -> Any:
            process = await start(*command, **options)
            self.pass_("git: started")
            return process

        patch.setattr(Redis, "execute_command", execute_command)
        patch.setattr(Git, "run", run_git)
        patch.setattr(corral.adapters.git, "start_group", start_group)


def seams_of(passed: list[str]) -> list[int]:
    """Each kind of seam the last time that it was passed, from 1."""
    return sorted({name: place for place, name in enumerate(passed, start=1)}.values())


def main() -> None:
    """See the module."""
    where, seam, *arguments = sys.argv[1:]
    module, _, function = where.partition(":")
    told = getattr(importlib.import_module(module), function)

    def die() -> None:
        Path("seams.txt").write_text("\n".join(seams.passed), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)

    seams = Seams(int(seam), die)
    with pytest.MonkeyPatch.context() as patch:
        seams.sew(patch)
        asyncio.run(told(*arguments))
    Path("seams.txt").write_text("\n".join(seams.passed), encoding="utf-8")


if __name__ == "__main__":
    main()
