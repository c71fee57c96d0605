"""The plain ``git`` program, run so that nothing in a repository can make it run anything else.

What a hostile repository or worktree could use, and what closes it:

- hooks, fsmonitor, external attributes: switched off by configuration that the environment carries and that wins over
  any file;
- the user's and the system's configuration: never read, so no filter, alias, credential helper or rewrite of theirs;
- a ``.git`` inside a worktree: never looked for; callers name the bare mirror and the worktree;
- transports: all refused but the one that the remote's address needs (``ext::`` is never among them);
- submodules: never fetched, entered or pushed;
- addresses, refs and revisions that begin with ``-``: refused, and separated by ``--`` or ``--end-of-options`` besides;
- endless output and endless waiting: bounded; the whole process group is killed.

A credential reaches git over a pipe whose number the configured helper knows. It is in no argument, no address, no
environment variable and no file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from corral.adapters.processes import end_group, start_group
from corral.errors import GitFailed
from corral.masking import without_credentials

#: Passed on when set: how to find programs, and how a company's network is left.
_INHERITED: Final = (
    "PATH",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
)

_FIXED_ENVIRONMENT: Final = {
    "HOME": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_EDITOR": "false",
    "GIT_PAGER": "cat",
}

_FIXED_CONFIG: Final = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.alternateRefsCommand": "true",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.quotePath": "false",
    "advice.detachedHead": "false",
    "credential.helper": "",
    "diff.ignoreSubmodules": "all",
    "fetch.recurseSubmodules": "false",
    "submodule.recurse": "false",
    "push.recurseSubmodules": "no",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "init.defaultBranch": "main",
    "log.showSignature": "false",
    "safe.directory": "*",
    "protocol.allow": "never",
}

#: Runs the other side of a repository on this disk, which git starts with a clean environment, as hardened as ours.
_LOCAL_PEER: Final = (
    "git -c safe.directory=* -c core.hooksPath=/dev/null -c core.alternateRefsCommand=true -c gc.auto=0"
)

_NEVER: Final = re.compile(r"^(?:-|\s)|[\x00-\x1f\x7f]")
_BRANCH: Final = re.compile(
    r"^(?!.*(?:\.\.|//|@\{|\.lock(?:/|$)))(?!.*/\.)[^\x00-\x20\x7f~^:?*\[\\./-][^\x00-\x20\x7f~^:?*\[\\]*(?<![./])\Z"
)


@dataclass(frozen=True, slots=True)
class GitCredential:
    """A user name and a secret for one remote; the secret never shows in a ``repr``."""

    username: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GitRemote:
    """Where a repository is, and how to be let in.

    Attributes:
        url: ``https://``, ``http://`` or an absolute path; never with a user or a password in it.
        credential: None for anonymous.
    """

    url: str
    credential: GitCredential | None = None

    def __post_init__(self) -> None:
        """Refuse an address that git could take for an option or another transport.

        Raises:
            GitFailed: ``unsupported_address``.
        """
        if self.transport is None:
            told = f"expected a repository as https://… or an absolute path, got {masked_url(self.url)!r}"
            if masked_url(self.url) != self.url:
                told += " with a user or a token in it: those belong in the settings"
            raise _failed(told, "address", "unsupported_address")

    @property
    def transport(self) -> str | None:
        """Name of the one transport that the address needs; None when it is not a supported one."""
        if _NEVER.search(self.url) or "::" in self.url.split("/", 1)[0]:
            return None
        if self.url.startswith("/"):
            return "file"
        parts = urlsplit(self.url)
        if parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc:
            return parts.scheme
        return None


@dataclass(frozen=True, slots=True)
class GitOutput:
    """What a git command printed and how it ended."""

    stdout: bytes
    stderr: str
    code: int

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stdout.decode("utf-8", "replace")


def masked_url(url: str) -> str:
    """The address without user and password."""
    return without_credentials(url, instead="")


def is_branch_name(name: str) -> bool:
    """Whether git takes this as a branch's name (the rules of ``git check-ref-format --branch``)."""
    return len(name.encode()) <= 244 and _BRANCH.match(name) is not None and name != "HEAD"


def check_revision(revision: str) -> str:
    """Give a revision back when it can't be taken for an option.

    Raises:
        GitFailed: ``invalid_revision``.
    """
    if not revision or _NEVER.search(revision):
        raise _failed(f"expected a commit or a ref, got {revision!r}", "resolve", "invalid_revision")
    return revision


class Git:
    """Runs git commands, one process each, hardened as this module says.

    Args:
        program: The git to run, 2.38 or newer.
        timeout: Longest run of a command that gives no limit of its own.
        max_output_bytes: Most that a command may print before it is ended.
    """

    def __init__(
        self,
        *,
        program: str = "git",
        timeout: timedelta = timedelta(minutes=5),
        max_output_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._program = program
        self._timeout = timeout
        self._max_output_bytes = max_output_bytes

    async def run(
        self,
        *args: str,
        git_dir: Path | None = None,
        work_tree: Path | None = None,
        index: Path | None = None,
        remote: GitRemote | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
        timeout: timedelta | None = None,
        max_output_bytes: int | None = None,
        ok: Sequence[int] = (0,),
        keep_open: Sequence[int] = (),
    ) -> GitOutput:
        """Run one command.

        Args:
            args: Subcommand and arguments; untrusted ones behind ``--`` or ``--end-of-options``.
            git_dir: The repository; never found by looking around.
            work_tree: Where its files are; the command runs in it.
            index: The index file to use, when not the repository's own.
            remote: Allows this remote's transport and answers for it with its credential.
            stdin: What the command reads.
            env: Further variables (identity, dates).
            config: Further configuration, winning over any file.
            timeout: Longest run.
            max_output_bytes: Most output.
            ok: Exit codes that are answers and not failures.
            keep_open: File descriptors that the process inherits; a lock is then held until it has ended too.

        Raises:
            GitFailed: With a ``reason``: see :func:`failure`.
        """
        operation = args[0]
        span, limit = timeout or self._timeout, max_output_bytes or self._max_output_bytes
        settings = {**_FIXED_CONFIG, **(config or {})}
        with _let_in(remote, settings) as pipes:
            process = await self._start(
                self._command(args, git_dir, work_tree),
                operation=operation,
                folder=work_tree or git_dir,
                environment=_environment(settings, env, index),
                takes_input=stdin is not None,
                keep_open=(*keep_open, *pipes),
            )
        try:
            async with asyncio.timeout(span.total_seconds()):
                output = await _communicate(process, stdin, limit)
        except TimeoutError:
            told = f"git {operation} did not end within {span.total_seconds():g} s"
            raise _failed(told, operation, "timed_out", retryable=True) from None
        finally:
            await end_group(process)
        if output is None:
            raise _failed(f"git {operation} printed more than {limit} bytes", operation, "output_too_large")
        if output.code not in ok:
            raise failure(operation, output, remote)
        return output

    def _command(self, args: Sequence[str], git_dir: Path | None, work_tree: Path | None) -> list[str]:
        command = [self._program]
        if git_dir is not None:
            command.append(f"--git-dir={git_dir}")
        if work_tree is not None:
            command.append(f"--work-tree={work_tree}")
        return [*command, *args]

    async def _start(
        self,
        command: Sequence[str],
        *,
        operation: str,
        folder: Path | None,
        environment: Mapping[str, str],
        takes_input: bool,
        keep_open: Sequence[int],
    ) -> asyncio.subprocess.Process:
        try:
            return await start_group(
                *command,
                stdin=asyncio.subprocess.PIPE if takes_input else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                cwd=folder or "/",
                pass_fds=keep_open,
            )
        except FileNotFoundError as error:
            told = f"expected git 2.38 or newer as {self._program!r}, or a folder {str(folder)!r}"
            raise _failed(told, operation, "git_missing") from error


def _failed(told: str, operation: str, reason: str, *, retryable: bool = False) -> GitFailed:
    return GitFailed(told, service="git", operation=operation, retryable=retryable, reason=reason)


def transport_options(remote: GitRemote, program: str) -> list[str]:
    """Options of ``fetch``, ``push`` or ``ls-remote`` that harden the other side when it is on this disk.

    Args:
        remote: Where to.
        program: ``upload-pack`` or ``receive-pack``.
    """
    return [f"--{program}={_LOCAL_PEER} {program}"] if remote.transport == "file" else []


def _environment(settings: Mapping[str, str], env: Mapping[str, str] | None, index: Path | None) -> dict[str, str]:
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment.update(_FIXED_ENVIRONMENT)
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    environment.update(env or {})
    environment["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings.items()):
        environment[f"GIT_CONFIG_KEY_{number}"] = key
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    return environment


@contextlib.contextmanager
def _let_in(remote: GitRemote | None, settings: dict[str, str]) -> Iterator[tuple[int, ...]]:
    """Allow a remote's transport, and offer its credential to one process that is started inside.

    Args:
        remote: Where to; None allows nothing.
        settings: The process's configuration; gets what is needed.

    Yields:
        Descriptors that the process must inherit.
    """
    if remote is None:
        yield ()
        return
    settings[f"protocol.{remote.transport}.allow"] = "always"
    if remote.credential is None:
        yield ()
        return
    pipe = _offer(remote.credential)
    settings[f"credential.{remote.url}.helper"] = f'!f() {{ test "$1" = get && cat /dev/fd/{pipe}; }}; f'
    settings["credential.useHttpPath"] = "true"
    try:
        yield (pipe,)
    finally:
        os.close(pipe)


def _offer(credential: GitCredential) -> int:
    """The reading end of a pipe that holds the credential in git's own format."""
    if any(character in credential.username + credential.secret for character in "\n\0"):
        told = "the forge's token holds a line break; give it without one"
        raise _failed(told, "authenticate", "credential_invalid")
    reader, writer = os.pipe()
    try:
        os.write(writer, f"username={credential.username}\npassword={credential.secret}\n".encode())
    finally:
        os.close(writer)
    return reader


async def _communicate(process: asyncio.subprocess.Process, stdin: bytes | None, limit: int) -> GitOutput | None:
    """Feed and read the process; None when it printed more than ``limit`` bytes."""

    async def feed() -> None:
        if process.stdin is not None and stdin is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(stdin)
                await process.stdin.drain()
            process.stdin.close()

    async def read(stream: asyncio.StreamReader | None, most: int) -> bytes | None:
        chunks: list[bytes] = []
        size = 0
        while stream is not None and (chunk := await stream.read(65_536)):
            size += len(chunk)
            if size > most:
                return None
            chunks.append(chunk)
        return b"".join(chunks)

    async def read_tail(stream: asyncio.StreamReader | None) -> bytes:
        kept = b""
        while stream is not None and (chunk := await stream.read(65_536)):
            kept = (kept + chunk)[-65_536:]
        return kept

    feeding = asyncio.ensure_future(feed())
    complaints = asyncio.ensure_future(read_tail(process.stderr))
    try:
        printed = await read(process.stdout, limit)
        if printed is None:
            return None
        await feeding
        stderr = (await complaints).decode("utf-8", "replace")
        return GitOutput(printed, stderr, await process.wait())
    finally:
        for task in (feeding, complaints):
            task.cancel()
        await asyncio.gather(feeding, complaints, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Symptom:
    pattern: re.Pattern[str]
    reason: str
    retryable: bool
    advice: str


def _symptom(pattern: str, reason: str, advice: str, *, retryable: bool = False) -> _Symptom:
    return _Symptom(re.compile(pattern, re.IGNORECASE), reason, retryable, advice)


#: Read from the top; the first that matches names the failure. Texts are git's own, then GitHub's, GitLab's, Gitea's.
_SYMPTOMS: Final = (
    _symptom(r"\.lock': file exists", "locked", "another git command held the repository", retryable=True),
    _symptom(r"archived so it is read-only|repository is archived", "repository_archived", "unarchive the repository"),
    _symptom(
        r"refusing to allow (?:a|an) .* without `?workflows?`? (?:scope|permission)",
        "workflow_permission_missing",
        "give the token the workflow permission, or leave .github/workflows alone",
    ),
    _symptom(r"GH013|push declined due to repository rule", "rule_violation", "see the repository's rules"),
    _symptom(
        r"protected branch|GH006|pre-receive hook declined.*protected",
        "branch_protected",
        "push to a branch that the forge's protection rules leave open",
    ),
    _symptom(r"pre-receive hook declined|remote rejected.*hook declined", "hook_declined", "see the forge's message"),
    _symptom(
        r"stale info|\(fetch first\)|non-fast-forward|failed to update ref|cannot lock ref|incorrect old value",
        "branch_moved",
        "somebody else pushed meanwhile",
    ),
    _symptom(
        r"exceeds? .*file size limit|GH001|larger than the maximum|pack exceeds maximum",
        "push_too_large",
        "make the change smaller",
    ),
    _symptom(
        r"authentication failed|could not read (?:username|password)|invalid username or (?:password|token)"
        r"|returned error: 401",
        "authentication_failed",
        "give a valid token",
    ),
    _symptom(
        r"returned error: 403|permission to .* denied|not allowed to push|you are not allowed",
        "permission_denied",
        "give the token write access to the repository's contents",
    ),
    _symptom(
        r"returned error: 404|repository '?.*'? not found|could not be found",
        "repository_not_found",
        "check the address, and that the token may see the repository",
    ),
    _symptom(
        r"returned error: 30\d|unable to update url base from redirection",
        "repository_moved",
        "register the project under its new address (redirects are not followed)",
    ),
    _symptom(
        r"does not appear to be a git repository|not a git repository|no such file or directory.*repository",
        "not_a_repository",
        "give the path of a git repository",
    ),
    _symptom(r"transport '.*' not allowed", "transport_refused", "use https or a path"),
    _symptom(r"returned error: 429", "rate_limited", "the forge asks for a pause", retryable=True),
    _symptom(
        r"returned error: 5\d\d|could not resolve host|failed to connect|couldn't connect"
        r"|connection (?:refused|reset|timed)|operation (?:too slow|timed out)|the remote end hung up"
        r"|early eof|unexpected disconnect|gnutls|ssl_error|empty reply from server|rpc failed",
        "unreachable",
        "the forge can't be reached just now",
        retryable=True,
    ),
    _symptom(r"no space left on device|disk quota exceeded", "disk_full", "free some disk", retryable=True),
)


def failure(operation: str, output: GitOutput, remote: GitRemote | None = None) -> GitFailed:
    """The error that tells what went wrong, with a stable reason and without a secret.

    Args:
        operation: git's subcommand.
        output: What it printed.
        remote: Whose credential must not show.
    """
    said = masked(output.stderr or output.text, remote)
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("hint:")]
    said = " / ".join(lines)[:600]
    for symptom in _SYMPTOMS:
        if symptom.pattern.search(said):
            return GitFailed(
                f"git {operation}: {symptom.advice}; git said: {said}",
                service="git",
                operation=operation,
                retryable=symptom.retryable,
                # git does not pass on what the forge asked for.
                retry_after=timedelta(minutes=1) if symptom.reason == "rate_limited" else None,
                reason=symptom.reason,
            )
    return GitFailed(
        f"git {operation} ended with {output.code}: {said}", service="git", operation=operation, retryable=True
    )


def masked(said: str, remote: GitRemote | None) -> str:
    """What git said, without the remote's secret and without users and passwords in addresses."""
    if remote is not None and remote.credential is not None and remote.credential.secret:
        said = said.replace(remote.credential.secret, "***")
    return without_credentials(said)
