"""Finds which file of a worktree holds which Go test: Go itself reports, and runs, whole packages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from corral.jobs.test_execution.hostile_files import UnsafeFileError, read_bounded, regular_files

_TEST = re.compile(r"^func ((?:Test|Example|Fuzz)\w*)\(", re.MULTILINE)
_MODULE = re.compile(r"^module\s+\"?([^\s\"]+)", re.MULTILINE)
_FILE_BYTES = 1024 * 1024
_MOST_FILES = 2000
_SKIPPED_FOLDERS = frozenset({".git", "node_modules", "vendor", "testdata"})


def test_functions(worktree: Path, file: str) -> list[str]:
    """Name the tests that a file declares; none when it can't be read."""
    try:
        content = read_bounded(worktree, file, most_bytes=_FILE_BYTES)
    except (UnsafeFileError, OSError):
        return []
    return _TEST.findall(content.decode(errors="replace"))


def files_of_tests(worktree: Path) -> dict[str, str]:
    """Map ``package.Test`` to the file that declares it, for the modules below a worktree. Blocks."""
    found: dict[str, str] = {}
    files, modules = _go_files(worktree)
    for file in files[:_MOST_FILES]:
        folder = PurePosixPath(file).parent
        module = next((parent for parent in [folder, *folder.parents] if parent in modules), None)
        if module is None:
            continue
        package = "/".join([modules[module], *folder.relative_to(module).parts])
        for name in test_functions(worktree, file):
            found[f"{package}.{name}"] = file
    return found


def _go_files(worktree: Path) -> tuple[list[str], dict[PurePosixPath, str]]:
    """Return the test files, and the modules: folder → name."""
    files: list[str] = []
    modules: dict[PurePosixPath, str] = {}
    for path, _ in regular_files(worktree, skipped=_SKIPPED_FOLDERS):
        if path.endswith("_test.go"):
            files.append(path)
        elif PurePosixPath(path).name == "go.mod":
            try:
                text = read_bounded(worktree, path, most_bytes=_FILE_BYTES).decode(errors="replace")
            except (UnsafeFileError, OSError):
                continue
            if match := _MODULE.search(text):
                modules[PurePosixPath(path).parent] = match[1]
    return files, modules


def tests_of(worktree: Path, files: Iterable[str]) -> list[str]:
    """Name the tests of some files, each once; none when one of the files declares none."""
    names: dict[str, None] = {}
    for file in files:
        declared = test_functions(worktree, file)
        if not declared:
            return []
        names.update(dict.fromkeys(declared))
    return list(names)
