"""Workers for one pull-request job each that die at a chosen step; run as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis.asyncio import Redis
from tests.support.pull_requests import PullRequestBench
from tests.support.repositories import Repository

from corral.adapters.forge.github import GitHubForge, PersonalToken
from corral.adapters.forge.local import LocalForge
from corral.adapters.forge.registry import Forges
from corral.adapters.git import Git, GitOutput
from corral.projects import ForgeKind

steps = 0
deadly = 0


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  the test reads it


def step(name: str) -> None:
    """One step is about to be taken, or was just taken."""
    global steps  # noqa: PLW0603  one counter for the whole process
    steps += 1
    if steps == deadly:
        say(f"killed {name}")
        os.kill(os.getpid(), signal.SIGKILL)


class MortalGit(Git):
    """Every git command that reaches the forge is two places to die."""

    async def run(self, *args: str, **options: Any) -> GitOutput:
        if args[0] in {"push", "fetch"}:
            step(f"before git {args[0]}")
            done = await super().run(*args, **options)
            step(f"after git {args[0]}")
            return done
        return await super().run(*args, **options)


class Mortal:
    """Every call of a forge or a store is two places to die."""

    def __init__(self, inner: Any, calls: tuple[str, ...]) -> None:
        self._inner, self._calls = inner, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._calls:
            return found

        async def call(*args: Any, **options: Any) -> Any:
            step(f"before {name}")
            done = await found(*args, **options)
            step(f"after {name}")
            return done

        return call


async def work(asked: dict[str, Any]) -> None:
    repository = Repository.__new__(Repository)
    repository.bare = Path(asked["bare"])
    forge: Any = LocalForge()
    kind = ForgeKind.LOCAL
    if asked["api"]:
        kind, forge = ForgeKind.GITHUB, GitHubForge(PersonalToken(SecretStr(asked["token"])), api_url=asked["api"])
    forge = Mortal(forge, ("open", "decorate", "edit"))
    redis = Redis.from_url(asked["redis"], decode_responses=True)
    bench = PullRequestBench(
        Path(asked["folder"]),
        repository=repository,
        project={"repository": asked["address"], "forge": kind},
        forges=Forges({kind: lambda _url: forge}),
        redis=redis,
    )
    bench.workspaces._git = MortalGit()
    bench.handler._records = Mortal(bench.handler._records, ("will_push", "remember"))  # type: ignore[assignment]
    result = await bench.open(asked["commit"], source_branch=asked["branch"], labels=("bot",))
    say(f"done {steps} {result.model_dump_json()}")
    await redis.aclose()


def main() -> None:
    """For each line of standard input, a JSON object, one worker: forked, so that all is loaded already."""
    global deadly  # noqa: PLW0603  what the child shall die at
    for line in sys.stdin:
        asked = json.loads(line)
        deadly = asked["die"]
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(work(asked))
            except Exception:  # noqa: BLE001  the test shows it
                traceback.print_exc()
                say("failed")
            os._exit(0)
        os.waitpid(child, 0)
        say("ended")


if __name__ == "__main__":
    main()
