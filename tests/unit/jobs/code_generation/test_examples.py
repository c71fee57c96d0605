from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from corral.jobs.code_generation.examples import Examples, most_agreed, read_examples
from corral.jobs.test_execution.report import CaseOutcome, TestCase, TestReport


def examples_of(code: str, files: Any = ()) -> Examples:
    found = read_examples(f"Here they are:\n```python\n{code}", files=files)
    assert found is not None
    return found


def run(examples: Examples, folder: Path, **sources: str) -> list[bool]:
    """Which hold, by a real run."""
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text)
    (folder / examples.path).write_text(examples.text)
    module = examples.path.removesuffix(".py")
    told = [
        subprocess.run(
            [sys.executable, "-m", "unittest", f"{module}.Examples.test_example_{number}"],
            cwd=folder, capture_output=True, check=False,
        ).returncode
        for number in range(len(examples.statements))
    ]  # fmt: skip
    return [code == 0 for code in told]


def report(*outcomes: CaseOutcome, message: str | None = None) -> TestReport:
    cases = tuple(
        TestCase(file="test_x.py", name=f"Examples.test_example_{number}", outcome=outcome, message=message)
        for number, outcome in enumerate(outcomes)
    )
    return TestReport(passed=False, runner="plain", command="x", commit="0", cases=cases)


PLAIN = """
from calc import add
assert add(1, 2) == 3
assert add(0, 0) == 1
assert add(1, 2) == 3
assert add(1, 1) == 2 ```"""
FUNCTIONS = """
from calc import add, invented

def test_adding():
    \"\"\"Adds.\"\"\"
    total = add(1, 1)
    assert total == 2
    total = add(total, 1)
    assert total == 4

def test_invented():
    assert invented() is None
"""
CLASS = """
import unittest
from calc import add

class AddTest(unittest.TestCase):
    def setUp(self):
        self.one = 1

    def test_add(self):
        self.assertEqual(add(self.one, 2), 3)
        with self.assertRaises(TypeError):
            add(None, 1)
        for number in range(3):
            assert add(number, 0) == number

if __name__ == "__main__":
    unittest.main()
"""
RAISING = """
from calc import add

def test_error():
    try:
        add(None, 1)
        assert False, "no error"
    except TypeError as error:
        assert str(error) == "words that the task does not give"
    try:
        add(1, 1)
    except TypeError:
        pass
"""


@pytest.mark.parametrize(
    ("code", "holding"),
    [
        (PLAIN.removesuffix("```"), [True, False, True]),
        (FUNCTIONS, [True, False, False]),
        (CLASS, [True, True, True]),
        (RAISING, [True, False]),
    ],
)
def test_each_assertion_is_judged_by_itself(tmp_path: Path, code: str, holding: list[bool]) -> None:
    assert run(examples_of(code), tmp_path, calc="def add(a, b):\n    return a + b\n") == holding


def test_what_the_length_limit_cut_off_is_left_out() -> None:
    found = examples_of("from a import f\nassert f(1) == 1\nassert f(2) == (2, \nassert f(3")
    assert found.statements == ("self.assertEqual(f(1), 1)",)


def test_what_holds_no_assertion_is_none() -> None:
    assert read_examples("I would rather not.", files=()) is None
    assert read_examples("```python\nprint(1)\n```", files=()) is None
    assert read_examples("```python\n" + "(" * 2000 + "\n```", files=()) is None
    assert read_examples("```python\nassert f(" + "-" * 1500 + "1)\n```", files=()) is None


def test_a_made_up_import_fails_only_the_examples_that_use_it(tmp_path: Path) -> None:
    code = (
        "from pile import Pile, push\npile = Pile()\npile.push(1)\nassert pile.items == [1]\n"
        "assert push(pile) is None\n"
    )
    pile = "class Pile:\n    items = []\n\n    def push(self, item):\n        self.items = [*self.items, item]\n"
    assert run(examples_of(code), tmp_path, pile=pile) == [True, False], "a method is no import"


def test_only_what_is_about_the_task_counts() -> None:
    code = "from a import f, g, C\nassert f(1) == 1\nassert g(1) == 1\nassert C().h() == 1\n"
    found = read_examples(f"```python\n{code}```", files=(), about={"g", "h"})
    assert found is not None
    assert found.statements == ("self.assertEqual(g(1), 1)", "self.assertEqual(C().h(), 1)")


def test_there_are_not_too_many() -> None:
    found = examples_of("from a import f\n" + "".join(f"assert f({number}) == 1\n" for number in range(100)))
    assert len(found.statements) == 12
    assert "test_example_12" not in found.text


def test_their_file_goes_beside_the_tests_under_a_name_that_nobody_has() -> None:
    code = "from a import f\nassert f(1) == 1\n"
    assert examples_of(code).path == "test_corral_examples.py"
    assert (
        examples_of(code, ["a.py", "src/b/tests/test_b.py", "tests/test_a.py"]).path == "tests/test_corral_examples.py"
    )
    taken = ["tests/test_corral_examples.py", "tests/test_corral_examples1.py"]
    assert examples_of(code, taken).path == "tests/test_corral_examples2.py"


def test_what_holds_and_what_does_not_is_read_from_the_report() -> None:
    found = examples_of("from a import f\nassert f(1) == 1\nassert f(2) == 2\nassert f(3) == 3\n")
    told = report(
        CaseOutcome.PASSED, CaseOutcome.FAILED, CaseOutcome.ERROR, CaseOutcome.FAILED, message="1 != 2\n- 1\n+ 2"
    )
    assert found.holding(told) == {0}
    assert found.complaints(told, {0, 1}) == "self.assertEqual(f(2), 2)\n  1 != 2"
    assert found.complaints(told, {1, 2}, most=1).count("\n") == 1


@pytest.mark.parametrize(
    ("held", "chosen"),
    [
        ([{1}, {1, 2}], 1),
        ([{1, 2}, {1, 3}], 0),  # as good: the first
        ([{1, 2, 3, 4}, {1, 2, 3}, {1, 2, 3}], 1),  # two that agree outweigh one odd one
        ([{1, 2, 3, 4, 5}, {1}, {1}], 0),
        ([set(), set()], 0),
    ],
)
def test_the_answer_that_most_agree_with_is_chosen(held: list[set[int]], chosen: int) -> None:
    assert most_agreed([frozenset(one) for one in held]) == chosen
