"""The git program, run so that nothing in a repository is executed and nothing is fetched."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import IO

from corral.errors import GitFailed

_GIT = (
    "git",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.attributesFile=/dev/null",
    "-c",
    "protocol.allow=never",
    "-c",
    "safe.directory=*",
    "-c",
    "core.quotePath=false",
)
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # a repository's own protocol.*.allow would outdo protocol.allow
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
}
_LIST_BLOCK_BYTES = 1 << 16
_MAX_LIST_BYTES = 200_000_000
"""Of a listing by git: some two million files. A few objects can stand for any number of files."""
LIST_BLOCK_BYTES = 1 << 16
_MAX_LIST_MEMORY_BYTES = 500_000_000
"""Of git itself while it lists: ``diff-tree`` keeps all that it found until it has found everything."""


def _environment(settings: Mapping[str, str] = {}) -> dict[str, str]:
    chosen = {"GIT_CONFIG_COUNT": str(len(settings))} if settings else {}
    for number, (key, value) in enumerate(settings.items()):
        chosen |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return {"PATH": os.environ.get("PATH", os.defpath), **_ENVIRONMENT, **chosen}


def run(arguments: Sequence[str], *, stdin: bytes = b"", settings: Mapping[str, str] = {}) -> bytes:
    """What git prints.

    Args:
        arguments: After the program's name.
        stdin: What it reads.
        settings: Over the repository's own.

    Raises:
        GitFailed: It could not be started, or failed.
    """
    try:
        done = subprocess.run(
            [*_GIT, *arguments], capture_output=True, env=_environment(settings), input=stdin, check=False
        )
    except OSError as error:
        raise failed(arguments, str(error)) from error
    if done.returncode != 0:
        raise failed(arguments, done.stderr.decode("utf-8", "replace").strip()[:300])
    return done.stdout


def listed(arguments: Sequence[str]) -> bytes:
    """What git prints, up to a bound.

    Raises:
        GitFailed: As ``run``; ``too_many_files`` when it prints more.
    """
    return b"".join(printed(arguments))


def printed(arguments: Sequence[str]) -> Iterator[bytes]:
    """As ``listed``, in blocks as they come."""
    size = 0
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                [*_GIT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                env=_environment(),
                bufsize=1 << 18,
            )
        except OSError as error:
            raise failed(arguments, str(error)) from error
        try:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (_MAX_LIST_MEMORY_BYTES, _MAX_LIST_MEMORY_BYTES))
            assert process.stdout is not None  # noqa: S101 - asked for above
            while block := process.stdout.read(LIST_BLOCK_BYTES):
                size += len(block)
                if size > _MAX_LIST_BYTES:
                    raise GitFailed(
                        f"the repository has too many files: a list of them has more than {_MAX_LIST_BYTES:,} bytes",
                        service="git",
                        operation="list",
                        retryable=False,
                        reason="too_many_files",
                    )
                yield block
            if process.wait() != 0:
                said.seek(0)
                raise failed(arguments, said.read(2000).decode("utf-8", "replace").strip()[:300])
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def sizes(git: Sequence[str], blobs: Sequence[str]) -> list[int | None]:
    """Bytes of each blob; None for one that isn't there, or is something else."""
    names = "".join(f"{blob}\n" for blob in blobs).encode()
    checked = run([*git, "cat-file", "--batch-check=%(objecttype) %(objectsize)"], stdin=names).splitlines()
    return [int(line[5:]) if line.startswith(b"blob ") else None for line in checked]


def contents(git: Sequence[str], blobs: Sequence[str]) -> Generator[bytes]:
    """The blobs, all of which are there, in order.

    Raises:
        GitFailed: One was not.
    """
    if not blobs:
        return
    # The names come from a file, not a pipe: git can then never wait for us while we wait for it.
    with _as_file("".join(f"{blob}\n" for blob in blobs).encode()) as stdin:
        process = subprocess.Popen(
            [*_GIT, *git, "cat-file", "--batch", "--buffer"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            bufsize=1 << 18,
        )
    try:
        out = process.stdout
        assert out is not None  # noqa: S101 - asked for above
        for blob in blobs:
            header = out.readline().split()
            if len(header) != 3:
                raise failed([*git, "cat-file"], f"no content for {blob}")
            size = int(header[2])
            content = out.read(size + 1)
            if len(content) != size + 1:
                raise failed([*git, "cat-file"], f"{blob} ended early")
            yield content[:-1]
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[IO[bytes]]:
    handle = os.memfd_create("corral-blobs")
    with os.fdopen(handle, "w+b") as file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield file


_VERBS = frozenset({"status", "ls-tree", "diff-tree", "ls-files", "cat-file", "config", "rev-parse"})


def failed(arguments: Sequence[str], said: str) -> GitFailed:
    """The error for what git said."""
    operation = next((part for part in arguments if part in _VERBS), "git")
    return GitFailed(f"git {operation}: {said}", service="git", operation=operation, retryable=False)
