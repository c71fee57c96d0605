"""What a run left in the worktree: JUnit reports, coverage, screenshots. Written by untrusted programs."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path, PurePosixPath

from corral.adapters.sandbox.port import MIB
from corral.jobs.test_execution.artifacts import FoundArtifact
from corral.jobs.test_execution.hostile_files import UnsafeFileError, read_bounded, written_files
from corral.jobs.test_execution.parsing import ParsedReport, UnreadableReportError, parse_junit
from corral.jobs.test_execution.report import Artifact

_JUNIT = re.compile(
    r"(?:^|/)(?:junit[^/]*|TEST-[^/]*|test[-_]?(?:results?|report)[^/]*|nosetests)\.xml$"
    r"|(?:^|/)(?:surefire-reports|failsafe-reports|test-results|test-reports|junit)/(?:.*/)?[^/]*\.xml$"
)
_JUNIT_FILES = 500
_JUNIT_BYTES = 32 * MIB
_COVERAGE_BYTES = 16 * MIB
_COVERAGE_NAMES = frozenset({"coverage.xml", "coverage.json", "coverage-summary.json", "lcov.info", "coverage.out"})
_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp", ".webm", ".mp4"})
_REPORTS = frozenset({".html", ".xml", ".json", ".log", ".txt", ".zip", ".har", ".svg"})
_REPORT_FOLDERS = frozenset({
    "test-results", "test-reports", "surefire-reports", "playwright-report", "screenshots", "cypress", "coverage",
    "htmlcov", "reports", "allure-results", "artifacts",
})  # fmt: skip
_ARTIFACTS = 50
_ARTIFACT_BYTES = 5 * MIB
_ARTIFACTS_BYTES = 20 * MIB


def find_junit(worktree: Path, since: float) -> ParsedReport | None:
    """Read the JUnit files that the run wrote, at the customary places; None when it wrote none."""
    found: ParsedReport | None = None
    left = _JUNIT_BYTES
    paths = sorted(path for path, status in written_files(worktree, since=since) if _JUNIT.search(path))
    for path in paths[:_JUNIT_FILES]:
        try:
            content = read_bounded(worktree, path, most_bytes=left)
            parsed = parse_junit(content)
        except (UnsafeFileError, UnreadableReportError, OSError):
            continue
        left -= len(content)
        found = found or ParsedReport(started=True, runner="junit")
        found.cases += parsed.cases
        found.identities += parsed.identities
    return found


def coverage_percent(worktree: Path, since: float) -> float | None:
    """Return the share of covered lines that the run reported: coverage.py, Cobertura, Istanbul, LCOV, or Go.

    Of several reports the one nearest to the root counts.
    """
    paths = [path for path, _ in written_files(worktree, since=since) if PurePosixPath(path).name in _COVERAGE_NAMES]
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        try:
            percent = _percent(PurePosixPath(path).name, read_bounded(worktree, path, most_bytes=_COVERAGE_BYTES))
        except (UnsafeFileError, OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if percent is not None and 0 <= percent <= 100:
            return round(percent, 2)
    return None


def _percent(name: str, content: bytes) -> float | None:
    if name == "coverage.json":
        return float(json.loads(content)["totals"]["percent_covered"])
    if name == "coverage-summary.json":
        return float(json.loads(content)["total"]["lines"]["pct"])
    text = content.decode(errors="replace")
    if name == "coverage.xml":
        # The root element's attribute is all that is wanted: no need for an XML parser to meet a hostile document.
        match = re.search(r"<coverage\b[^>]*\bline-rate=\"([0-9.]+)\"", text)
        return float(match[1]) * 100 if match else None
    if name == "lcov.info":
        found = sum(int(number) for number in re.findall(r"^LF:(\d{1,9})\s*$", text, re.MULTILINE))
        hit = sum(int(number) for number in re.findall(r"^LH:(\d{1,9})\s*$", text, re.MULTILINE))
        return 100 * hit / found if found else None
    blocks = re.findall(r" (\d{1,9}) (\d{1,9})$", text, re.MULTILINE)  # Go: statements, how often they ran
    statements = sum(int(number) for number, _ in blocks)
    return 100 * sum(int(number) for number, ran in blocks if int(ran)) / statements if statements else None


def find_artifacts(worktree: Path, since: float) -> list[FoundArtifact]:
    """Read what people want to see afterwards, bounded in number and size. Blocks."""
    found: list[FoundArtifact] = []
    left = _ARTIFACTS_BYTES
    for path, status in sorted(written_files(worktree, since=since), key=lambda written: written[0]):
        if not _is_artifact(path) or status.st_size > min(_ARTIFACT_BYTES, left) or not status.st_size:
            continue
        try:
            content = read_bounded(worktree, path, most_bytes=min(_ARTIFACT_BYTES, left))
        except (UnsafeFileError, OSError):
            continue
        digest = hashlib.sha256(content).hexdigest()
        name = f"{digest}{PurePosixPath(path).suffix.lower()}"
        shown = path.encode("utf-8", "replace").decode()
        artifact = Artifact(path=shown, size_bytes=len(content), sha256=digest, stored_as=name)
        found.append(FoundArtifact(artifact, content))
        left -= len(content)
        if len(found) >= _ARTIFACTS:
            break
    return found


def _is_artifact(path: str) -> bool:
    pure = PurePosixPath(path)
    suffix = pure.suffix.lower()
    return suffix in _IMAGES or (suffix in _REPORTS and not _REPORT_FOLDERS.isdisjoint(pure.parts[:-1]))
