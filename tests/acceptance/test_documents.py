"""The documents say what is so."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from corral import default
from corral.interfaces.cli.app import app
from corral.testing import EmbeddedServer

ROOT = Path(__file__).parents[2]
QUICK_REFERENCE = ROOT / "docs" / "quick-reference.md"
_LASTING = ("corral worker", "corral watch", "corral stats --watch")


def _blocks(path: Path, language: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks of a language, with the line that each begins at."""
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        indent, body = found.groups()
        line = text.count("\n", 0, found.start(2)) + 1
        yield line, "\n".join(row.removeprefix(indent) for row in body.splitlines())


def test_settings_table_and_command_reference_are_as_the_code_says() -> None:
    command = [sys.executable, "scripts/write_reference.py", "--check"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "src"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_snippet_of_the_quick_reference_runs(
    corral_server: EmbeddedServer, corral_prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", corral_server.url)
    monkeypatch.setenv("CORRAL_PREFIX", corral_prefix)
    monkeypatch.setenv("CORRAL_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(default, "_made", None)  # the module functions' Corral of this test

    snippets = list(_blocks(QUICK_REFERENCE, "python"))
    assert len(snippets) >= 9
    namespace: dict[str, Any] = {"__name__": "quick_reference"}

    async def run_them() -> None:
        for line, source in snippets:
            # At their own line, so that a failure points into the document.
            tree = ast.increment_lineno(ast.parse(source), line - 1)
            code = compile(tree, str(QUICK_REFERENCE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            waiting = eval(code, namespace)  # noqa: S307 - it is our own document
            if inspect.isawaitable(waiting):
                await waiting

    asyncio.run(run_them())
    assert namespace["stats"].total >= 1
    assert namespace["value"] == "value"

    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    commands = [
        row for _, body in _blocks(QUICK_REFERENCE, "sh") for row in body.splitlines() if row.startswith("corral")
    ]
    assert len(commands) >= 5
    for command in commands:
        _run_command(command, environment)


def _run_command(command: str, environment: dict[str, str]) -> None:
    arguments = [sys.executable, "-m", *shlex.split(command)]
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if command.startswith(_LASTING) and process.poll() is None:
                process.send_signal(signal.SIGINT)
            rest, _ = process.communicate()
        finally:
            process.kill()
            watchdog.cancel()
    # 1: the doctor found a fault on this machine, or the watched job had failed.
    assert process.returncode in {0, 1, 130}, f"{command}: {said}{rest}"
    assert "Traceback" not in said + rest
    assert said


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _prose(document: Path) -> str:
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?[^)]*\)", _prose(document)):
        if "://" in target:
            continue
        there = document.parent / target if target else document
        assert there.exists(), target
        if heading:
            assert heading in _headings(there), f"{target}#{heading}"


def _headings(document: Path) -> set[str]:
    """The anchors of a page's headings, as the forges make them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", _prose(document), re.MULTILINE)
    }


def test_tests_that_documents_name_are_there() -> None:
    """Also one that stands as ``::test_this`` after another one's file."""
    files = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py"))
    }
    named = 0
    for document in DOCUMENTS:
        for file, test in re.findall(r"`([\w./-]*test_\w+\.py|)(?:::(\w+))?`", _prose(document)):
            if file or test:
                texts = [text for path, text in files.items() if path.endswith(file)]
                assert texts, f"{document.name} names {file}"
                assert not test or any(re.search(rf"(?:def|class) {test}\b", text) for text in texts), (
                    f"{document.name} names {test}"
                )
                named += 1
    assert named > 20


_COMMAND = re.compile(r"(?<![\w./@-])corral ([a-z][a-z-]*(?: [^`\"\n',;|)#<]*)?)")


def test_commands_that_are_named_take_the_options_that_they_are_named_with() -> None:
    """In documents, and in what the program itself tells people to do."""
    found = 0
    root = typer.main.get_command(app)
    sources = [path for kind in ("py", "html") for path in sorted((ROOT / "src").rglob(f"*.{kind}"))]
    for path in [*DOCUMENTS, *sources]:
        for line in re.findall(
            r"(?<![\w./@-])corral ([a-z][a-z-]*(?: [^`\"\n',;|)#<]*)?)", path.read_text(encoding="utf-8")
        ):
            command, words = root, line.split()
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]  # type: ignore[attr-defined]  # click's Group has them
            known = {"--help", *(option for one in command.params for option in (*one.opts, *one.secondary_opts))}
            given = {word.partition("=")[0].rstrip(".:]") for word in words if word.startswith("--")}
            if command is not root:
                found += 1
                assert given <= known, f"{path.relative_to(ROOT)}: corral {line}"
    assert found > 100
