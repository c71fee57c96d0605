"""The set-up phase: its way out, and its cache."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.test_execution.conftest import Run

from corral.adapters.sandbox.proxy import AllowList
from corral.errors import Unrecoverable
from corral.jobs.test_execution.report import TestReport
from corral.jobs.test_execution.runner import TestRunner

INSTALL = (
    "mkdir -p .venv/bin; echo 'echo tool' > .venv/bin/tool; chmod +x .venv/bin/tool; echo ran >> ~/.runs; "
    "date +%N > .venv/id"
)


async def test_a_result_is_used_again_while_the_lock_file_is_the_same(run: Run, tree: Path) -> None:
    (tree / "requirements.txt").write_text("a==1\n")
    first = await run("tool && cat .venv/id", setup_command=INSTALL)
    assert (first.setup_cached, first.passed) == (False, True)
    assert not (tree / ".venv").exists(), "what was installed is kept elsewhere, and mounted"
    second = await run("tool && cat .venv/id; wc -l < ~/.runs", setup_command=INSTALL)
    assert second.setup_cached
    assert second.output_tail.splitlines()[:2] == first.output_tail.splitlines()
    assert second.setup_seconds < 0.5
    (tree / "requirements.txt").write_text("a==2\n")
    third = await run("cat .venv/id", setup_command=INSTALL)
    assert not third.setup_cached
    assert third.output_tail.split() != first.output_tail.split()[1:]


async def test_other_projects_and_commands_do_not_share(run: Run, tree: Path) -> None:
    (tree / "requirements.txt").write_text("a==1\n")
    await run("true", setup_command=INSTALL)
    assert not (await run("true", setup_command=INSTALL, project_id="other")).setup_cached
    assert not (await run("true", setup_command=INSTALL + " ")).setup_cached
    assert not (await run("true", setup_command=INSTALL, env={"A": "1"})).setup_cached


async def test_the_tests_cannot_change_what_is_shared(run: Run, tree: Path) -> None:
    (tree / "requirements.txt").write_text("a==1\n")
    evil = "echo evil > .venv/bin/tool; rm -rf .venv/bin/tool; mv .venv x; echo evil > ~/.runs; tool"
    report = await run(evil, setup_command=INSTALL)
    assert report.output_tail.endswith("tool\n")
    again = await run("tool", setup_command=INSTALL)
    assert (again.setup_cached, again.output_tail) == (True, "tool\n")


async def test_links_that_a_set_up_made_lead_nowhere_on_the_host(run: Run, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("host secret")
    (tree / "requirements.txt").write_text("a==1\n")
    evil = (
        f"ln -s {tmp_path}/secret node_modules; ln -s {tmp_path}/secret ~/.cargo; mkdir -p deep; "
        f"ln -s {tmp_path}/secret deep/link; mkfifo pipe"
    )
    for _ in range(2):
        report = await run("cat node_modules/file ~/.cargo/file deep/link/file; true", setup_command=evil)
        assert "host secret" not in report.output_tail
        assert not (tmp_path / "secret" / "inner").exists()


async def test_changed_files_are_changed_again(run: Run, tree: Path) -> None:
    (tree / "package.json").write_text("{}")
    (tree / "generated.txt").write_text("old")
    for cached in (False, True):
        (tree / "generated.txt").write_text("old")
        report = await run("cat generated.txt", setup_command="echo new version > generated.txt")
        assert (report.setup_cached, report.output_tail) == (cached, "new version\n")


async def test_a_failing_set_up_is_a_failure_and_is_not_kept(run: Run, tree: Path) -> None:
    (tree / "requirements.txt").write_text("a==1\n")
    for _ in range(2):
        with pytest.raises(Unrecoverable, match="no such package") as caught:
            await run("true", setup_command="echo no such package; exit 1")
        assert caught.value.reason == "setup_failed"


async def test_two_at_once_install_once(runner: TestRunner, tmp_path: Path) -> None:
    async def run(name: str) -> TestReport:
        tree = tmp_path / name
        tree.mkdir()
        (tree / "requirements.txt").write_text("a==1\n")
        return await runner.run(
            tree,
            command="cat .venv/id",
            commit="c",
            project_id="demo",
            timeout=timedelta(seconds=30),
            setup_command="sleep 0.3; " + INSTALL,
        )

    one, two = await asyncio.gather(run("one"), run("two"))
    assert {one.setup_cached, two.setup_cached} == {True, False}
    assert one.output_tail == two.output_tail
    assert len(one.output_tail) > 1


@contextlib.asynccontextmanager
async def registry() -> AsyncIterator[int]:
    """A package registry of sorts on the host's loopback."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            body = b"package for " + head.split(b" ")[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


FETCH = """python3 -c '
import urllib.request, sys
try:
    print(urllib.request.urlopen("http://localhost.example:{port}/simple", timeout=10).read().decode())
except Exception as error:
    print(type(error).__name__, error)
' > fetched; cat fetched"""


class TestNetwork:
    @pytest.fixture
    def allowed(self) -> AllowList:
        return AllowList()

    async def test_without_network_there_is_no_way_out(self, run: Run, tree: Path) -> None:
        (tree / "requirements.txt").write_text("x")
        report = await run("cat fetched", setup_command=FETCH.format(port=80))
        assert "URLError" in report.output_tail

    async def test_hosts_that_are_not_listed_are_refused(self, run: Run, tree: Path) -> None:
        (tree / "requirements.txt").write_text("x")
        lines: list[str] = []

        async def on_output(batch: list[str]) -> None:
            lines.extend(batch)

        report = await run("cat fetched", setup_command=FETCH.format(port=80), network="setup", on_output=on_output)
        assert "403" in report.output_tail
        assert "[network: localhost.example:80 is not in CORRAL_SANDBOX_SETUP_HOSTS]" in lines


class TestAllowedNetwork:
    @pytest.fixture
    async def allowed(self) -> AsyncIterator[AllowList]:
        async with registry() as port:
            self.port = port
            yield AllowList([f"127.0.0.1:{port}", "169.254.169.254:80"], networks=["127.0.0.1/32"])

    async def test_listed_hosts_are_reached_by_the_set_up_only(self, run: Run, tree: Path) -> None:
        (tree / "requirements.txt").write_text("x")
        fetch = FETCH.format(port=self.port).replace("localhost.example", "127.0.0.1")
        direct = 'import urllib.request, os; os.environ.pop("no_proxy", 0); os.environ.pop("NO_PROXY", 0)'
        fetch = fetch.replace("import urllib.request, sys", direct)
        again = fetch.replace("> fetched; cat fetched", "")
        report = await run(f"cat fetched; {again}; true", setup_command=fetch, network="setup")
        assert report.output_tail.startswith("package for /simple\n")
        assert "Error" in report.output_tail, "the tests themselves have no way out"

    async def test_metadata_addresses_are_refused_even_when_listed(self, run: Run, tree: Path) -> None:
        (tree / "requirements.txt").write_text("x")
        fetch = FETCH.format(port=80).replace("localhost.example", "169.254.169.254")
        report = await run("cat fetched", setup_command=fetch, network="setup")
        assert "403" in report.output_tail
