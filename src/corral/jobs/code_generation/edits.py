"""Applying a model's edits to a worktree: all of an answer's edits, or none.

Nothing is written before every edit has its place. What an edit does not mean to change (encoding, line endings, file
mode, the missing last newline) stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from corral.jobs.code_generation.fences import has_elision
from corral.jobs.code_generation.matching.found import Missed, Placed
from corral.jobs.code_generation.matching.ladder import place
from corral.jobs.code_generation.result import AppliedEdit
from corral.jobs.code_generation.source_text import NotTextError, SourceText, split_lines


@dataclass(frozen=True, kw_only=True)
class SearchReplace:
    """Replace lines; an empty search creates the file (or fills an empty one)."""

    path: str
    search: str
    replace: str


@dataclass(frozen=True, kw_only=True)
class WholeFile:
    """Give a file new content, or create it."""

    path: str
    content: str


@dataclass(frozen=True, kw_only=True)
class DeleteFile:
    """Remove a file."""

    path: str


@dataclass(frozen=True, kw_only=True)
class RenameFile:
    """Give a file another path; its content stays."""

    path: str
    to: str


Edit = SearchReplace | WholeFile | DeleteFile | RenameFile


@dataclass(frozen=True, kw_only=True)
class Miss:
    """An edit that has no place, in words for the model."""

    path: str
    why: str
    nearest: str = ""

    def __str__(self) -> str:
        told = f"{self.path}: {self.why}."
        return f"{told} Nearest lines:\n{self.nearest}" if self.nearest else told


class EditsMissedError(ValueError):
    """At least one edit has no place; nothing was changed."""

    def __init__(self, misses: Sequence[Miss]) -> None:
        super().__init__("\n\n".join(str(miss) for miss in misses))
        self.misses = tuple(misses)


@dataclass
class Plan:
    """What to write: new bytes by path, None to remove; and how each edit found its place."""

    files: dict[str, bytes | None] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    """New paths, and which files they were."""
    applied: list[AppliedEdit] = field(default_factory=list)


def plan_edits(edits: Sequence[Edit], read: Callable[[str], bytes | None]) -> Plan:
    """Work out what all edits together make of the files.

    Args:
        edits: In the answer's order; later ones see what earlier ones did.
        read: A file's bytes, or None when there is none; raises ValueError for a path that may not be touched.

    Raises:
        EditsMissedError: One or more edits have no place.
    """
    plan = Plan()
    misses: list[Miss] = []
    if not edits:
        raise EditsMissedError([Miss(path="", why="the answer holds no edit")])

    def now(path: str) -> bytes | None:
        return plan.files[path] if path in plan.files else read(path)

    for edit in edits:
        try:
            outcome = _one(edit, now)
        except NotTextError as error:
            misses.append(Miss(path=edit.path, why=f"it can't be edited: {error}"))
            continue
        except ValueError as error:
            misses.append(Miss(path=edit.path, why=str(error)))
            continue
        if isinstance(outcome, Miss):
            misses.append(outcome)
            continue
        files, applied = outcome
        plan.files.update(files)
        plan.applied.append(applied)
        if isinstance(edit, RenameFile):
            plan.renamed[edit.to] = plan.renamed.pop(edit.path, edit.path)
    if misses:
        raise EditsMissedError(misses)
    return plan


_Done = tuple[dict[str, bytes | None], AppliedEdit]


def _one(edit: Edit, now: Callable[[str], bytes | None]) -> _Done | Miss:
    data = now(edit.path)
    match edit:
        case SearchReplace():
            return _search_replace(edit, data)
        case WholeFile():
            return _whole_file(edit, data)
        case DeleteFile() | RenameFile() if data is None:
            return Miss(path=edit.path, why="there is no such file")
        case DeleteFile():
            return {edit.path: None}, AppliedEdit(path=edit.path, how="deleted")
        case RenameFile() if now(edit.to) is not None:
            return Miss(path=edit.path, why=f"{edit.to} exists already")
        case RenameFile():
            return {edit.path: None, edit.to: data}, AppliedEdit(path=edit.to, how="renamed")


def _search_replace(edit: SearchReplace, data: bytes | None) -> _Done | Miss:
    search, replace = split_lines(edit.search), split_lines(edit.replace)
    if data is None:
        if edit.search.strip():
            return Miss(path=edit.path, why="there is no such file; to create it, leave the search text empty")
        made = SourceText((), ()).with_lines(replace)
        return {edit.path: made.encode()}, AppliedEdit(path=edit.path, how="created", line=1)
    source = SourceText.decode(data)
    if not edit.search.strip() and not any(line.strip() for line in source.lines):
        return {edit.path: source.with_lines(replace).encode()}, AppliedEdit(path=edit.path, how="exact", line=1)
    found = place(source.lines, search, replace)
    if isinstance(found, Missed):
        return Miss(path=edit.path, why=found.why, nearest=found.nearest)
    return {edit.path: _with(source, found).encode()}, AppliedEdit(
        path=edit.path, how=found.how.value, similarity=found.similarity, line=found.start + 1
    )


def _with(source: SourceText, found: Placed) -> SourceText:
    return source.with_lines([*source.lines[: found.start], *found.lines, *source.lines[found.end :]])


def _whole_file(edit: WholeFile, data: bytes | None) -> _Done | Miss:
    lines = split_lines(edit.content)
    if has_elision(edit.content) and (data is None or not has_elision(SourceText.decode(data).text)):
        return Miss(path=edit.path, why="a part of the file is left out; write the whole file")
    if data is None:
        made = SourceText((), ()).with_lines(lines)
        return {edit.path: made.encode()}, AppliedEdit(path=edit.path, how="created", line=1)
    source = SourceText.decode(data)
    return {edit.path: source.with_lines(lines).encode()}, AppliedEdit(path=edit.path, how="whole-file", line=1)
