from __future__ import annotations

from typing import Any

import pytest

from corral.jobs.code_generation.definitions import (
    CannotMergeError,
    merge_definitions,
    outline,
    without_definitions,
    without_imports,
)

SOURCE = '''\
"""A module."""

import os

from shop.price import Price

LIMIT = 3


@cached
def total(prices):
    return sum(prices)


def last():
    return os.sep


if __name__ == "__main__":
    print(total([]))
'''


def test_a_new_function_goes_to_the_end_before_the_main_block() -> None:
    merged = merge_definitions(SOURCE, "def fresh(x):\n    return x\n")
    assert merged.added == ("fresh",)
    assert merged.text == SOURCE.replace("\n\nif __name__", "\n\ndef fresh(x):\n    return x\n\n\nif __name__")


def test_a_definition_of_the_same_name_is_replaced_with_its_decorators() -> None:
    merged = merge_definitions(SOURCE, "def total(prices):\n    return sum(prices, 0)\n")
    assert merged.replaced == ("total",)
    assert merged.text == SOURCE.replace(
        "@cached\ndef total(prices):\n    return sum(prices)", "def total(prices):\n    return sum(prices, 0)"
    )


def test_imports_are_added_once_when_they_are_used_and_not_of_own_names() -> None:
    answer = "import os\nimport re\nimport json\nfrom shop import total\n\ndef fresh():\n    return re, os, total\n"
    merged = merge_definitions(SOURCE, answer)
    assert "from shop.price import Price\nimport re\n" in merged.text
    assert "json" not in merged.text
    assert "from shop import total" not in merged.text
    assert merged.text.count("import os") == 1


def test_a_copy_of_what_the_file_imports_is_dropped() -> None:
    merged = merge_definitions(SOURCE, "class Price:\n    pass\n\n\ndef fresh():\n    return Price()\n")
    assert merged.added == ("fresh",)
    assert "class Price" not in merged.text


def test_constants_are_replaced_or_added_after_the_imports() -> None:
    merged = merge_definitions(SOURCE, "LIMIT = 5\nSTEP = 2\n\ndef fresh():\n    return STEP\n")
    assert "LIMIT = 5" in merged.text
    assert "LIMIT = 3" not in merged.text
    assert merged.text.index("STEP = 2") < merged.text.index("def total")


def test_an_empty_file_becomes_the_answer() -> None:
    assert (
        merge_definitions("", "import re\n\ndef f():\n    return re\n").text == "import re\n\ndef f():\n    return re\n"
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("def broken(:\n", "not valid Python"),
        ("print('hello')\n", "defines nothing"),
        ("class Price:\n    pass\n", "defines nothing"),
    ],
)
def test_answers_without_a_usable_definition_are_refused(answer: Any, why: str) -> None:
    with pytest.raises(CannotMergeError, match=why):
        merge_definitions(SOURCE, answer)


def test_a_form_feed_or_a_line_separator_in_the_file_moves_nothing() -> None:
    source = "a = 'x\u2028y'\n\x0c\ndef f():\n    return 1\n\n\ndef g():\n    return 2\n"
    merged = merge_definitions(source, "def f():\n    return '\x85'\n")
    assert merged.text == source.replace("return 1", "return '\x85'")


def test_definitions_and_imports_are_taken_away_by_name() -> None:
    source = "from m import a, b\nfrom m import a\n\n\n@d\ndef a():\n    pass\n\n\ndef c():\n    pass\n"
    assert without_definitions(source, {"a"}) == "from m import a, b\nfrom m import a\n\n\ndef c():\n    pass\n"
    assert without_imports(source, {"a"}).startswith("from m import b\n\n\n@d\ndef a")


STACK = '''class Stack:
    """A pile."""

    kind = "pile"

    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)
'''


def test_methods_that_a_class_in_the_answer_does_not_speak_of_stay() -> None:
    answer = (
        "class Stack:\n  def pop(self):\n    return self.items.pop()\n\n"
        "  def push(self, item):\n    self.items += [item]\n"
    )
    merged = merge_definitions(STACK + "\n\nend = 1\n", answer)
    assert merged.text == (
        STACK.replace("    self.items.append(item)", "  self.items += [item]")
        + "\n    def pop(self):\n      return self.items.pop()\n\n\nend = 1\n"
    )
    assert merged.replaced == ("Stack",)


def test_what_the_answer_only_hints_at_stays() -> None:
    hinted = STACK.replace("self.items = []", "...").replace("self.items.append(item)", "self.items.insert(0, item)")
    assert merge_definitions(STACK, hinted).text == STACK.replace("append(item)", "insert(0, item)")
    function = "def f():\n    return 1\n\n\ndef g():\n    return 2\n"
    merged = merge_definitions(function, 'def f():\n    """One."""\n    ...\n\n\ndef g():\n    return 3\n')
    assert merged.text == function.replace("2", "3")


def test_a_method_that_is_to_go_goes_and_a_class_with_all_methods_is_taken_whole() -> None:
    without = "class Stack:\n    def __init__(self):\n        self.items = []\n"
    assert "def push" not in merge_definitions(STACK, without, gone={"push"}).text
    whole = STACK.replace('    kind = "pile"\n\n', "")
    assert merge_definitions(STACK, whole).text == whole


def test_a_property_and_its_setter_are_no_versions_of_each_other() -> None:
    both = (
        "class A:\n    @property\n    def x(self):\n        return 1\n\n    @x.setter\n    def x(self, value):\n"
        "        pass\n"
    )
    answer = both.replace("return 1", "return 2")
    assert merge_definitions(both + "\n    def y(self):\n        return 3\n", answer).text == answer


OUTLINED = '''import re


@cache
def named(text):
    """Kept whole."""
    return re.sub("a", "b", text)


def other(text):
    """What it does."""
    text += 1
    return text


def bare(text): return text


class Kept:
    def method(self):
        return 1


class Shop:
    size = 3

    def named(self):
        return 1

    async def other(self):
        for one in self:
            yield one
'''


def test_an_outline_keeps_what_the_task_names() -> None:
    told = outline(OUTLINED, "Let named() of Kept be quick")
    assert told == OUTLINED.replace("    text += 1\n    return text\n", "    ...\n").replace(
        "        for one in self:\n            yield one\n", "        ...\n"
    )
    assert outline("def broken(:\n", "x") == "def broken(:\n"
