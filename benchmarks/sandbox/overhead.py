"""What the sandbox costs: a no-op beside a plain process, a checkout beside `git worktree add`, five at once, set-up.

Run with ``python benchmarks/sandbox/overhead.py``; prints medians and ratios, and the targets beside them.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox
from corral.adapters.sandbox.port import SandboxRequest
from corral.adapters.workspace import Workspaces
from corral.commits import CommitStore
from corral.jobs.test_execution.runner import TestRunner
from corral.projects import Project

ROUNDS = int(os.environ.get("ROUNDS", "40"))
FILES = 5000


class NoRedis:
    """No commit of this benchmark is in Redis."""

    async def execute_command(self, *_args: object, **_options: object) -> None:
        return None


async def median_ms(rounds: int, what: Callable[[], Awaitable[object]]) -> float:
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        await what()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


async def plain(*command: str, cwd: Path | None = None) -> None:
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    await process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{command} ended with {process.returncode}")


def git(folder: Path, *arguments: str) -> None:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, env={**os.environ, **identity}, capture_output=True
    )


def repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "-b", "main")
    for number in range(FILES):
        path = folder / f"d{number % 50}" / f"f{number}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"x = {number}\n" * 40)
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "all")
    return folder


async def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        tree = root / "tree"
        tree.mkdir()
        sandbox = BubblewrapSandbox(home=root / "data" / "sandbox" / "runs")
        print(f"bubblewrap {await sandbox.check()}; bounds: {dict(sandbox.bounds())}")

        async def boxed() -> None:
            request = SandboxRequest(command=("/bin/sh", "-c", ":"), worktree=tree, timeout=timedelta(minutes=1))
            await sandbox.run(request, lambda _: None)

        # Taken in turns, so that other work on the machine meets both.
        bare, inside = [], []
        for _ in range(ROUNDS):
            bare.append(await median_ms(1, lambda: plain("/bin/sh", "-c", ":")))
            inside.append(await median_ms(1, boxed))
        bare_ms, boxed_ms = statistics.median(bare), statistics.median(inside)
        print(
            f"no-op: plain {bare_ms:.1f} ms, sandboxed {boxed_ms:.1f} ms: {boxed_ms - bare_ms:.1f} ms more (target 30)"
        )

        origin = repository(root / "origin")
        number = 0

        async def worktree() -> None:
            nonlocal number
            number += 1
            await plain("git", "-C", str(origin), "worktree", "add", "--detach", str(root / f"w{number}"))

        workspaces = Workspaces(data_dir=root / "data", commits=CommitStore(NoRedis()))
        project = Project(id="bench", repository=str(origin))
        commit = await workspaces.resolve(project)

        async def checked_out() -> None:
            async with workspaces.checkout(project, commit) as workspace:
                request = SandboxRequest(command=("true",), worktree=workspace.path, timeout=timedelta(minutes=1))
                await sandbox.run(request, lambda _: None)

        rounds = max(3, ROUNDS // 8)
        added, whole = [], []
        for _ in range(rounds):
            added.append(await median_ms(1, worktree))
            whole.append(await median_ms(1, checked_out))
        added_ms, whole_ms = statistics.median(added), statistics.median(whole)
        print(
            f"{FILES} files: git worktree add {added_ms:.0f} ms; checkout, sandboxed no-op, removal {whole_ms:.0f} ms: "
            f"{whole_ms / added_ms:.2f} times (target 1.5)"
        )

        async def busy() -> float:
            script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
            request = SandboxRequest(command=("/bin/sh", "-c", script), worktree=tree, timeout=timedelta(minutes=5))
            began = time.perf_counter()
            await sandbox.run(request, lambda _: None)
            return time.perf_counter() - began

        alone = await busy()
        five = await asyncio.gather(*[busy() for _ in range(5)])
        print(
            f"five at once on {os.cpu_count()} cores: alone {alone:.2f} s, of five the first {min(five):.2f} s and the "
            f"last {max(five):.2f} s: {max(five) / min(five):.2f} times"
        )

        runner = TestRunner(sandbox, data_dir=root / "data")
        (tree / "requirements.txt").write_text("x")
        install = "sleep 1; mkdir -p .venv; for i in $(seq 500); do echo x > .venv/$i; done"
        for what in ("cold", "warm"):
            report = await runner.run(
                tree,
                command="true",
                commit=commit,
                project_id="bench",
                timeout=timedelta(minutes=1),
                setup_command=install,
            )
            print(f"set-up {what}: {report.setup_seconds * 1000:.0f} ms")
        await runner.close()


if __name__ == "__main__":
    asyncio.run(main())
