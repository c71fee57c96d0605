"""What a model is shown of a project: the file that the task is about, its tests, the project's own instructions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from corral.jobs.code_generation.parts import SearchHitLike
from corral.jobs.code_generation.source_text import NotTextError, SourceText
from corral.jobs.code_generation.worktree import PathRefusedError, Worktree

INSTRUCTION_FILES = ("AGENTS.md", "CONTRIBUTING.md", "CONTRIBUTING.rst", ".github/CONTRIBUTING.md", "CONTRIBUTING")
"""Read as data, in this order."""
_PATH = re.compile(r"[\w./-]*\w\.[A-Za-z]\w{0,7}\b")
_NAME = re.compile(r"`([^`\s]+)`|\b([a-z]\w*_\w+)\b|\b(\w+)\(|\b([A-Z][a-z0-9]+[A-Z]\w*)\b")
_SUFFIXES = (
    ".py .pyi .js .jsx .ts .tsx .mjs .cjs .go .rs .java .kt .rb .php .c .h .cc .cpp .hpp .cs .swift .scala .sh .lua "
    ".ex .exs .erl .hs .clj .dart .vue .svelte .sql .html .css .scss .md .toml .yaml .yml .json"
)
_SOURCE_SUFFIXES = frozenset(_SUFFIXES.split(" "))
_MAX_TESTS = 4


def is_test(path: str) -> bool:
    """Whether a path is a test by the customs of the usual runners."""
    name = PurePosixPath(path).name
    folders = set(PurePosixPath(path).parts[:-1])
    return bool(
        folders & {"tests", "test", "__tests__", "spec"}
        or re.match(r"test_.*|.*_test\.\w+$|.*\.(test|spec)\.\w+$|conftest\.py$", name)
    )


def mentioned_names(prompt: str) -> list[str]:
    """Identifiers that the prompt names, in order: ``in backticks``, ``snake_case``, ``called()``, ``CamelCase``."""
    found: list[str] = []
    for match in _NAME.finditer(prompt):
        name = next(group for group in match.groups() if group)
        name = re.split(r"[(\s]", name, maxsplit=1)[0].rpartition(".")[2] or name
        if name not in found and re.fullmatch(r"\w{3,}", name):
            found.append(name)
    return found


def mentioned_paths(prompt: str, files: Sequence[str]) -> list[str]:
    """Paths of the repository that the prompt names, whole or by their end; new ones last."""
    known: list[str] = []
    new: list[str] = []
    for match in _PATH.finditer(prompt):
        told = match.group().removeprefix("./").rstrip(".")
        fitting = [path for path in files if path == told or path.endswith(f"/{told}")]
        if len(fitting) == 1:
            known.append(fitting[0])
        elif not fitting and "/" in told and PurePosixPath(told).suffix in _SOURCE_SUFFIXES:
            new.append(told)
    return list(dict.fromkeys([*known, *new]))


def target_file(*, prompt: str, given: Sequence[str], files: Sequence[str], found: Iterable[str]) -> str:
    """The one file that a small model is asked to change.

    Args:
        prompt: The task.
        given: Paths that the caller named; the first wins.
        files: The repository's files.
        found: Paths from the code index, best first.
    """
    if given:
        return given[0].removeprefix("./")
    mentioned = mentioned_paths(prompt, files)
    for path in (*(one for one in mentioned if not is_test(one)), *mentioned):
        return path
    sources = [path for path in files if PurePosixPath(path).suffix in _SOURCE_SUFFIXES]
    code = [path for path in sources if PurePosixPath(path).suffix not in {".md", ".toml", ".yaml", ".yml", ".json"}]
    for path in found:
        if path in code and not is_test(path):
            return path
    words = {word.lower() for word in re.findall(r"[A-Za-z]{4,}", prompt)}
    choice = [path for path in code if not is_test(path)] or code or sources or list(files)
    if not choice:
        return "main.py"
    return max(choice, key=lambda path: (_common(words, path), -len(path)))


def relevant_tests(
    worktree: Worktree, names: Sequence[str], failing: set[str], *, exclude: str
) -> list[tuple[str, str]]:
    """Test files that speak of the names in the prompt, or that fail now: most telling first."""
    failing_files = {name.partition("::")[0] for name in failing}
    paths = [path for path in worktree.files() if is_test(path) and path != exclude]
    texts = {path: text for path in paths if (text := text_of(worktree, path)) is not None}
    where = {
        name: {path for path, text in texts.items() if re.search(rf"\b{re.escape(name)}\b", text)} for name in names
    }
    scores: dict[str, float] = {}
    for path in texts:
        # A name that all tests speak of tells nothing about this one.
        score = sum(1 / len(found) for found in where.values() if path in found) + (path in failing_files)
        if score:
            scores[path] = score
    telling = sorted(scores, key=lambda path: (-scores[path], path))[:_MAX_TESTS]
    return [(path, texts[path]) for path in telling if scores[path] >= scores[telling[0]] / 2]


def instructions_of(worktree: Worktree, *, limit: int) -> str:
    """The project's own instructions for whoever changes it, cut at ``limit`` characters."""
    said: list[str] = []
    for path in INSTRUCTION_FILES:
        text = text_of(worktree, path)
        if text and text.strip():
            said.append(f"[{path}]\n{text.strip()}")
    told = "\n\n".join(said)
    return told if len(told) <= limit else told[:limit] + "…"


def related_code(hits: Sequence[SearchHitLike]) -> str:
    """What the code index has for the task, each piece with its place."""
    return "\n\n".join(f"[{hit.path}:{hit.start_line}-{hit.end_line}]\n{hit.text.rstrip()}" for hit in hits)


def text_of(worktree: Worktree, path: str) -> str | None:
    """A file's text, or None when there is none or it is no text."""
    try:
        data = worktree.read(path)
        return SourceText.decode(data).text if data is not None else None
    except (NotTextError, PathRefusedError):
        return None


def _common(words: set[str], path: str) -> int:
    parts = {part.lower() for part in re.findall(r"[A-Za-z]{4,}", path)}
    return len(words & parts)
