"""Putting new Python definitions where they belong: what a small model writes is a function, not a patch.

A definition whose name the file has replaces that one (decorators and the comments above it stay with it unless the new
one brings its own); of a class, methods that the new version does not speak of stay, and so does whatever it only hints
at by ``...``; a new definition goes to the end, before a ``if __name__ == "__main__"`` block. Imports are added to the
imports. A definition that the file imports from elsewhere is a copy of what the model was shown, and is dropped.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from corral.jobs.code_generation.source_text import split_lines

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class CannotMergeError(ValueError):
    """The answer can't be put into the file; the message is for the model."""


@dataclass(frozen=True)
class Merged:
    """The file's new text, and what was put where."""

    text: str
    replaced: tuple[str, ...]
    added: tuple[str, ...]


def without_definitions(source: str, names: Collection[str]) -> str:
    """The file without its functions and classes of these names."""
    lines = list(split_lines(source))
    for node in reversed(_parse(source, "the file").body):
        if isinstance(node, _Definition) and node.name in names:
            first, last = _first_line(node) - 1, node.end_lineno or node.lineno
            while last < len(lines) and not lines[last].strip():
                last += 1
            del lines[first:last]
    return "".join(f"{line}\n" for line in lines)


def without_imports(source: str, names: Collection[str]) -> str:
    """The file without what it imports by these names from other modules."""
    lines = list(split_lines(source))
    for node in reversed(_parse(source, "the file").body):
        if isinstance(node, ast.ImportFrom) and any(alias.name in names for alias in node.names):
            kept = [alias for alias in node.names if alias.name not in names]
            told = [ast.unparse(ast.ImportFrom(node.module, kept, node.level))] if kept else []
            lines[node.lineno - 1 : node.end_lineno] = told
    return "".join(f"{line}\n" for line in lines)


def defined_names(source: str) -> set[str]:
    """Names of a file's functions and classes; none when it can't be parsed."""
    try:
        return {node.name for node in ast.parse(source).body if isinstance(node, _Definition)}
    except (SyntaxError, ValueError):
        return set()


def defined_classes(source: str) -> set[str]:
    """Names of a file's classes; none when it can't be parsed."""
    try:
        return {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    except (SyntaxError, ValueError):
        return set()


def outline(source: str, task: str) -> str:
    """The file without the bodies of functions that a task does not name: their heads and first strings stay.

    Args:
        source: Python; text that can't be parsed comes back as it is.
        task: A function, or a class with all that is in it, is kept whole when this has its name as a word.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source
    words = set(re.findall(r"\w+", task))
    lines = list(split_lines(source))
    for node in sorted(_unnamed(tree.body, words), key=lambda one: one.lineno, reverse=True):
        has_string = ast.get_docstring(node, clean=False) is not None
        left_out = node.body[1:] if has_string else node.body
        first, last = left_out[0].lineno if left_out else 0, node.end_lineno or 0
        if left_out and first > node.body[0].lineno - (not has_string) and first > node.lineno:
            lines[first - 1 : last] = [" " * left_out[0].col_offset + "..."]
    return "".join(f"{line}\n" for line in lines)


def _unnamed(body: Sequence[ast.stmt], words: set[str]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, _Definition) and node.name not in words:
            if isinstance(node, ast.ClassDef):
                yield from _unnamed(node.body, words)
            else:
                yield node


def merge_definitions(source: str, answer: str, *, gone: Collection[str] = ()) -> Merged:
    """Merge the definitions and imports of ``answer`` into ``source``.

    Args:
        source: The file.
        answer: What the model wrote.
        gone: Methods that may be missing in the answer because they are to go.

    Raises:
        CannotMergeError: Either can't be parsed, or the answer defines nothing.
    """
    old = _parse(source, "the file")
    new = _parse(answer, "your code")
    imported = {alias.asname or alias.name for node in old.body for alias in _aliases(node)}
    definitions = [node for node in new.body if isinstance(node, _Definition) and node.name not in imported]
    constants = [node for node in new.body if _assigned_name(node) and _assigned_name(node) not in imported]
    if not definitions and not constants:
        raise CannotMergeError("your code defines nothing new: expected a function, a class or a constant")
    existing = {node.name: node for node in old.body if isinstance(node, _Definition)}
    existing_constants = {name: node for node in old.body if (name := _assigned_name(node))}
    lines = list(split_lines(source))
    replacements: list[tuple[int, int, list[str]]] = []
    appended: list[list[str]] = []
    placed_constants: list[str] = []
    replaced: list[str] = []
    added: list[str] = []
    for node in definitions:
        text = _lines_of(node, answer)
        at = existing.get(node.name)
        if at is None:
            appended.append(text)
            added.append(node.name)
        elif not (_is_stub(node) and not _is_stub(at)):
            if isinstance(at, ast.ClassDef) and isinstance(node, ast.ClassDef):
                text = _merged_class(at, node, source, answer, gone)
            replacements.append((_first_line(at), at.end_lineno or at.lineno, text))
            replaced.append(node.name)
    for constant in constants:
        name = _assigned_name(constant)
        at_constant = existing_constants.get(name)
        if at_constant is None:
            placed_constants.extend(_lines_of(constant, answer))
            added.append(name)
        elif at_constant is not None and ast.dump(at_constant) != ast.dump(constant):
            end = at_constant.end_lineno or at_constant.lineno
            replacements.append((at_constant.lineno, end, _lines_of(constant, answer)))
            replaced.append(name)
    imports = _missing_imports(old, new, defined=existing.keys() | {node.name for node in definitions})
    for first, last, text in sorted(replacements, reverse=True):
        lines[first - 1 : last] = text
    lines = _append(lines, appended)
    lines = _insert_after_imports(lines, imports, placed_constants)
    merged = "\n".join(lines) + "\n"
    _parse(merged, "the file with your code")
    return Merged(merged, tuple(replaced), tuple(added))


def _parse(text: str, what: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise CannotMergeError(f"{what} is not valid Python: {getattr(error, 'msg', error)} (line {line})") from error


def _aliases(node: ast.stmt) -> list[ast.alias]:
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else []


def _assigned_name(node: ast.stmt) -> str:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return ""


def _first_line(node: _Definition) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _lines_of(node: ast.stmt, text: str) -> list[str]:
    first = _first_line(node) if isinstance(node, _Definition) else node.lineno
    return list(split_lines(text)[first - 1 : node.end_lineno])


def _is_stub(node: _Definition) -> bool:
    """Whether it stands for code that the model left out."""
    return all(
        isinstance(one, ast.Pass) or (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
        for one in node.body
    )


def _merged_class(old: ast.ClassDef, new: ast.ClassDef, source: str, answer: str, gone: Collection[str]) -> list[str]:
    """The new version, or, where it leaves methods out, the old one with the new methods in it."""
    have, given = _methods(old), _methods(new)
    left_out = {name for name, node in given.items() if name in have and _is_stub(node) and not _is_stub(have[name])}
    if have.keys() - gone <= given.keys() - left_out or _repeats_a_method(old) or _repeats_a_method(new):
        return _lines_of(new, answer)
    first = _first_line(old)
    lines = _lines_of(old, source)
    margin = old.body[0].col_offset
    added: list[str] = []
    for name, node in sorted(given.items(), key=lambda item: have[item[0]].lineno if item[0] in have else 0)[::-1]:
        text = _shifted(_lines_of(node, answer), margin - node.col_offset)
        if name not in have:
            added = ["", *text, *added]
        elif name not in left_out:
            lines[_first_line(have[name]) - first : (have[name].end_lineno or 0) - first + 1] = text
    return [*lines, *added]


def _methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    return {one.name: one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def _repeats_a_method(node: ast.ClassDef) -> bool:
    """A property and its setter, overloads: names don't tell them apart."""
    return len(_methods(node)) < sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)


def _shifted(lines: list[str], by: int) -> list[str]:
    """Lines indented by so many columns more, or less."""
    if by >= 0:
        return [" " * by + line if line.strip() and by else line for line in lines]
    return [line[-by:] if not line[:-by].strip() else line for line in lines]


def _missing_imports(old: ast.Module, new: ast.Module, *, defined: set[str]) -> list[str]:
    have = {told for node in old.body for told, _ in _imports(node)}
    used = {node.id for node in ast.walk(new) if isinstance(node, ast.Name)}
    missing: list[str] = []
    for node in new.body:
        for told, bound in _imports(node):
            # An import that nothing uses, or of a name that the file itself defines, is the model's habit.
            if told not in have and told not in missing and bound in used and bound not in defined:
                missing.append(told)
    return missing


def _imports(node: ast.stmt) -> list[tuple[str, str]]:
    """One import statement for each name that the node imports, and the name that it binds."""
    if isinstance(node, ast.Import):
        return [(ast.unparse(ast.Import([alias])), _bound(alias)) for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module != "__future__":
        return [(ast.unparse(ast.ImportFrom(node.module, [alias], node.level)), _bound(alias)) for alias in node.names]
    return []


def _bound(alias: ast.alias) -> str:
    return (alias.asname or alias.name).partition(".")[0]


def _append(lines: list[str], definitions: list[list[str]]) -> list[str]:
    if not definitions:
        return lines
    tail: list[str] = []
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            lines, tail = lines[: node.lineno - 1], lines[node.lineno - 1 :]
            break
    while lines and not lines[-1].strip():
        lines.pop()
    for definition in definitions:
        if lines:
            lines += ["", ""]
        lines += definition
    return [*lines, "", "", *tail] if tail else lines


def _insert_after_imports(lines: list[str], imports: list[str], constants: list[str]) -> list[str]:
    if not imports and not constants:
        return lines
    body = ast.parse("\n".join(lines)).body
    last_import = max(
        (node.end_lineno or 0 for node in body if isinstance(node, ast.Import | ast.ImportFrom)), default=0
    )
    if last_import:
        block = [*imports, *(["", *constants] if constants else [])]
        return [*lines[:last_import], *block, *lines[last_import:]]
    docstring = body[0] if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) else None
    at = (docstring.end_lineno or 0) if docstring is not None else 0
    block = [*imports, *(["", *constants] if imports and constants else constants)]
    before = [""] if at else []
    rest = lines[at:]
    after = [] if rest and not rest[0].strip() else [""]
    return [*lines[:at], *before, *block, *after, *rest]
