"""Examples of what has to hold once a task is done, written by the model from the task alone.

Where no test of the project speaks of a change, they are what can tell one answer from another. A small model writes
many of them right and some wrong, so each is judged by itself: what the model wrote is taken apart, each assertion
becomes a test of its own with the statements that stood before it, and none ever gets into a commit.
"""

from __future__ import annotations

import ast
import math
import re
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from corral.jobs.code_generation.context import is_test
from corral.jobs.code_generation.fences import code_of
from corral.jobs.test_execution.report import CaseOutcome, TestCase, TestReport

_MOST_EXAMPLES = 12
_MOST_CUT_LINES = 30
"""Of an answer's end: what the length limit cut in two."""
_FILE_NAME = "test_corral_examples{number}.py"
_CASE = re.compile(r"\btest_example_(\d+)\b")
_GIVES_UP = re.compile(r"assert False\b|(self|pytest)\.fail\(")
_Import = ast.Import | ast.ImportFrom
_Block = ast.With | ast.For


@dataclass(frozen=True, kw_only=True)
class Examples:
    """A test file that only the sandbox sees."""

    path: str
    statements: tuple[str, ...]
    """Each example, without what stands before it."""
    text: str
    """The whole file."""

    def holding(self, report: TestReport) -> frozenset[int]:
        """Which of them hold, counted from 0."""
        return frozenset(number for number, case in self._cases(report) if case.outcome is CaseOutcome.PASSED)

    def complaints(self, report: TestReport, numbers: Collection[int], *, most: int = 4) -> str:
        """Of these, the first few that do not hold, and what came instead."""
        said: list[str] = []
        for number, case in self._cases(report):
            if number in numbers and case.outcome is not CaseOutcome.PASSED:
                # The first line of ``assertEqual`` has both values; the others draw where they differ.
                told = (case.message or "").strip().splitlines() or [str(case.outcome)]
                said.append(f"{self.statements[number]}\n  {told[0][:300]}")
        return "\n".join(said[:most])

    def _cases(self, report: TestReport) -> Iterator[tuple[int, TestCase]]:
        for case in report.cases:
            named = _CASE.search(case.name)
            if named and int(named[1]) < len(self.statements):
                yield int(named[1]), case


def read_examples(answer: str, *, files: Collection[str], about: Collection[str] = ()) -> Examples | None:
    """Take the examples out of a model's answer.

    Args:
        answer: Python with assertions: plain ones, those of test functions, or those of a ``unittest.TestCase``.
        files: The repository's files; the examples' own goes beside their tests.
        about: Names of which an example has to use one; empty takes all.

    Returns:
        None when it holds no assertion that can be read.
    """
    try:
        return _read(_parsed(code_of(answer)), files, set(about))
    except RecursionError:  # nested deeper than can be written down again
        return None


def _read(module: ast.Module, files: Collection[str], about: set[str]) -> Examples | None:
    found: dict[str, str] = {}
    for before, assertion in _assertions(module):
        if about and not _names_of([*before, assertion]) & about:
            continue
        told = _told(assertion)
        body = _source([*_needed(module, [*before, assertion]), *before], told)
        found.setdefault(body, told)
    if not found:
        return None
    helpers = [node for node in module.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("test")]
    methods = [
        f"    def test_example_{number}(self):\n{textwrap.indent(body, ' ' * 8)}"
        for number, body in enumerate(list(found)[:_MOST_EXAMPLES])
    ]
    head = "\n\n\n".join(["import unittest", *map(ast.unparse, helpers), "class Examples(unittest.TestCase):"])
    return Examples(
        path=_place(files),
        statements=tuple(found.values())[:_MOST_EXAMPLES],
        text=f"{head}\n" + "\n\n".join(methods) + "\n",
    )


def most_agreed(held: Sequence[frozenset[int]]) -> int:
    """Which answer has most to say for it, by the examples that it fulfils and the answers that fulfil the same.

    The measure is CodeT's (Chen et al. 2022, arXiv 2207.10397): answers that fulfil the same examples stand together,
    and weigh the root of their number times the number of those examples. A wrong example is fulfilled by no answer, or
    by an odd one.

    Args:
        held: Of each answer, the examples that hold; not empty.
    """

    def weight(at: int) -> float:
        return len(held[at]) * math.sqrt(held.count(held[at]))

    return max(range(len(held)), key=lambda at: (weight(at), -at))


# --- reading


def _parsed(code: str) -> ast.Module:
    lines = code.splitlines()
    for cut in range(min(_MOST_CUT_LINES, len(lines))):
        try:
            return ast.parse("\n".join(lines[: len(lines) - cut]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return ast.Module(body=[], type_ignores=[])


def _assertions(module: ast.Module) -> Iterator[tuple[list[ast.stmt], ast.stmt]]:
    """Each assertion, with the statements before it that are none."""
    definitions = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    yield from _taken_apart([node for node in module.body if not isinstance(node, _Import | definitions)])
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and not node.args.args:
            yield from _taken_apart(node.body)
        elif isinstance(node, ast.ClassDef):
            methods = [method for method in node.body if isinstance(method, ast.FunctionDef)]
            first = [statement for method in methods if method.name == "setUp" for statement in method.body]
            for method in methods:
                if method.name.startswith("test"):
                    yield from _taken_apart([*first, *method.body])


def _taken_apart(body: Sequence[ast.stmt]) -> Iterator[tuple[list[ast.stmt], ast.stmt]]:
    before: list[ast.stmt] = []
    for node in body:
        if _asserts(node):
            yield list(before), node
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Import | ast.ImportFrom | _Block) or (
            isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
        ):
            before.append(node)


def _asserts(node: ast.stmt) -> bool:
    if isinstance(node, ast.Try):
        return bool(node.handlers and node.handlers[0].type)
    if not isinstance(node, ast.Assert | ast.Expr | _Block):
        return False
    return any(isinstance(inner, ast.Assert) or _is_assert_call(inner) for inner in ast.walk(node))


def _is_assert_call(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return node.func.attr.startswith("assert") or ast.unparse(node.func) == "pytest.raises"


def _told(node: ast.stmt) -> str:
    """An assertion in the form that says what came instead."""
    match node:
        case ast.Assert(test=ast.Compare(left=left, ops=[ast.Eq()], comparators=[right])):
            return f"self.assertEqual({ast.unparse(left)}, {ast.unparse(right)})"
    if isinstance(node, ast.Try) and (expected := node.handlers[0].type) is not None:
        # That it raises is the task's; with which words is the model's guess.
        body = [ast.unparse(one) for one in node.body if not _GIVES_UP.match(ast.unparse(one))] or ["pass"]
        return f"with self.assertRaises({ast.unparse(expected)}):\n" + textwrap.indent("\n".join(body), "    ")
    return ast.unparse(node)


# --- writing


def _source(before: Sequence[ast.stmt], told: str) -> str:
    return "\n".join([*map(ast.unparse, before), told])


def _needed(module: ast.Module, body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """The imports that an example uses: a name that another one made up must not fail it."""
    used = {node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)}
    needed: list[ast.stmt] = []
    for node in module.body:
        if isinstance(node, _Import):
            kept = [alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) in used]
            if kept:
                told = (
                    ast.ImportFrom(node.module, kept, node.level)
                    if isinstance(node, ast.ImportFrom)
                    else ast.Import(kept)
                )
                needed.append(told)
    return needed


def _names_of(body: Sequence[ast.stmt]) -> set[str]:
    nodes = [node for statement in body for node in ast.walk(statement)]
    plain = {node.id for node in nodes if isinstance(node, ast.Name)}
    return plain | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def _place(files: Collection[str]) -> str:
    """Beside the project's tests, where its runner looks, under a name that nobody has."""
    folders = [PurePosixPath(path).parent for path in files if is_test(path) and path.endswith(".py")]
    folder = min(folders, key=lambda one: (len(one.parts), str(one)), default=PurePosixPath())
    taken = 0
    while (path := (folder / _FILE_NAME.format(number=taken or "")).as_posix()) in files:
        taken += 1
    return path
