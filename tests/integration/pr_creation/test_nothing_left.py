"""The token is nowhere that a run leaves behind, and nowhere that other processes can look."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.fake_github import TOKEN, FakeGitHub, rate_limited
from tests.support.pull_requests import PullRequestBench
from tests.support.web_server import Reply

from corral.adapters.forge.github import GitHubForge, PersonalToken
from corral.adapters.forge.registry import Forges
from corral.adapters.git import Git, GitCredential, GitOutput, GitRemote
from corral.projects import ForgeKind


def holding(folder: Path) -> list[str]:
    """Files below a folder that hold the token; names count too."""
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            with contextlib.suppress(OSError):
                if TOKEN.encode() in path.read_bytes() or TOKEN in str(path):
                    found.append(str(path))
    return found


class Watched(Git):
    """Looks at the processes while git runs."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = 0
        self.seen: list[str] = []

    async def run(self, *args: str, **options: object) -> GitOutput:
        running = asyncio.ensure_future(super().run(*args, **options))  # type: ignore[arg-type]
        while not running.done():
            self._look()
            await asyncio.sleep(0.002)
        return await running

    def _look(self) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if process.name == str(os.getpid()):
                    continue
                line = (process / "cmdline").read_bytes()
                if b"git" not in line:
                    continue
                self.looked += 1
                self.seen += [
                    f"{process.name} {part}: {line!r}"
                    for part in ("cmdline", "environ")
                    if TOKEN.encode() in (process / part).read_bytes()
                ]


async def test_the_token_stays_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with FakeGitHub(tmp_path / "forge") as github:
        forge = GitHubForge(PersonalToken(SecretStr(TOKEN)), api_url=github.api_url)
        bench = PullRequestBench(
            tmp_path / "worker",
            repository=github.repository,
            project={"repository": github.address, "forge": ForgeKind.GITHUB},
            forges=Forges({ForgeKind.GITHUB: lambda _url: forge}),
        )
        git = bench.workspaces._git = Watched()
        commit = await bench.generate({"a.txt": "a\n"})
        async with bench.workspaces.checkout(bench.project, commit) as workspace:
            assert holding(workspace.path) == []
            assert not (workspace.path / ".git").exists()
        for answer in (rate_limited(primary=True, seconds=5), Reply(403, TOKEN.encode()), Reply(500)):
            github.answer_next.append((r"GET .*/shop$", lambda _request, answer=answer: answer))  # type: ignore[misc]
            try:
                await bench.open(commit)
            except Exception:  # noqa: BLE001  whatever is raised must not tell
                said.append(traceback.format_exc())
        github.git.fail_next += [Reply(403, f"no {TOKEN}".encode())]
        for _ in range(2):
            try:
                said.append(repr(await bench.open(commit)))
            except Exception:  # noqa: BLE001  whatever is raised must not tell
                said.append(traceback.format_exc())
        assert len(github.pulls) == 1
        used = [one for one in github.server.requests if TOKEN in str(one.headers)]
        in_addresses = [one.path for one in github.server.requests if TOKEN in one.path + one.query]

    assert len(said) == 5
    assert used, "the token must have been used"
    assert git.looked > 10
    assert git.seen == []
    assert in_addresses == []
    assert holding(tmp_path) == []
    assert TOKEN not in repr(bench.redis.values)  # type: ignore[attr-defined]
    assert TOKEN not in "".join(said)
    assert TOKEN not in repr(
        (bench.news.progress_values, bench.news.log_lines, forge.__dict__, GitCredential("x", TOKEN))
    )
    assert TOKEN not in caplog.text
    assert TOKEN not in "".join(capfd.readouterr())
    assert TOKEN not in repr(os.environ)
    gc.collect()


async def test_a_credential_is_offered_to_its_own_remote_only(tmp_path: Path) -> None:
    with FakeGitHub(tmp_path) as github:
        elsewhere = github.address.replace("127.0.0.1", "localhost")
        remote = GitRemote(github.address, GitCredential("x-access-token", TOKEN))
        listed = await Git().run("ls-remote", "--", remote.url, remote=remote)
        assert "refs/heads/main" in listed.text
        with pytest.raises(Exception, match="token"):
            await Git().run("ls-remote", "--", elsewhere, remote=remote)
