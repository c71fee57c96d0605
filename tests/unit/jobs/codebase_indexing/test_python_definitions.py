"""The scanner of Python's definitions, held against the grammar."""

from __future__ import annotations

import sysconfig
import textwrap
from pathlib import Path

import pytest

from corral.jobs.codebase_indexing.chunks import _definitions, _nested, chunk_file
from corral.jobs.codebase_indexing.python_definitions import python_definitions

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
MODULES = ("argparse.py", "ast.py", "asyncio/base_events.py", "dataclasses.py", "doctest.py", "email/message.py",
           "functools.py", "inspect.py", "logging/__init__.py", "typing.py", "unittest/mock.py")  # fmt: skip


def scanned(text: str) -> list[tuple[str, str, int, int]]:
    return [
        (name, kind, start + 1, end + 1)
        for _, start, end, kind, name in python_definitions(text, text.removesuffix("\n").split("\n"))
    ]


@pytest.mark.parametrize("module", MODULES)
def test_the_standard_library_is_understood_as_the_grammar_understands_it(module: str) -> None:
    text = (LIBRARY / module).read_text("utf-8")
    by_grammar = [(found.symbol, found.start) for found in _definitions(text, "python")]
    by_scan = [(found.symbol, found.start) for found in _nested(python_definitions(text, text.split("\n")))]
    assert len(by_grammar) > 20
    names = [(symbol.name, symbol.kind, start, symbol.parent) for symbol, start in by_grammar]
    assert [(symbol.name, symbol.kind, start, symbol.parent) for symbol, start in by_scan] == names
    ends = [symbol.end_line for symbol, _ in by_grammar]
    differing = sum(one != other.end_line for one, (other, _) in zip(ends, by_scan, strict=True))
    assert differing <= len(ends) / 100


def test_code_in_strings_and_comments_defines_nothing() -> None:
    text = textwrap.dedent(
        '''
        def real():
            """
            def quoted(): pass
        class Quoted: pass
            """
            other = 'def short(): pass'
            # def commented():
            again = r"\\"  # "
            return \'\'\'
        class InText:
        \'\'\'

        async def late(): pass
        '''
    )
    assert scanned(text) == [("real", "function", 2, 12), ("late", "function", 14, 14)]


def test_a_bracket_that_closes_at_the_margin_ends_nothing() -> None:
    text = "class Wide:\n    def f(\n        self,\n    ):\n        return (\n            1,\n)\n\n"
    text += "    def g(self): ...\nx = 1\n"
    assert scanned(text) == [
        ("Wide", "class", 1, 9),
        ("f", "function", 2, 7),
        ("g", "function", 9, 9),
    ]


def test_what_begins_the_file_and_what_ends_it_count() -> None:
    assert scanned("def f(): pass") == [("f", "function", 1, 1)]
    assert scanned("def f():\n    pass\n\n\n") == [("f", "function", 1, 2)]
    assert scanned("") == []


@pytest.mark.parametrize(
    "text",
    [
        '"""' + ' \\"""' * 20_000,
        '"' + '\\"' * 20_000,
        "'''" * 20_001,
        "def f():\n" * 5_000,
        '"""\\',
        "class A\n    def",
        "\n".join(" " * depth + "def f():" for depth in range(1400)),
    ],
    ids=["open string", "open line", "many quotes", "only heads", "lone backslash", "broken", "deep"],
)
def test_hostile_text_is_looked_at_once(text: str) -> None:
    assert chunk_file(text, "python").lines == text.count("\n") + (not text.endswith("\n"))
