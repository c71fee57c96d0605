from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.jobs.code_generation.stage import Stage, last_told, scripted

from corral.adapters.llm.port import Finish, ModelAnswer, ModelTraits
from corral.errors import LlmFailed, SearchFailed
from corral.jobs.code_generation.result import EndReason

RIGHT = "```python\ndef add(a, b):\n    return a + b\n```"
WRONG = "```python\ndef add(a, b):\n    return a * b\n```"
SMALL = ModelTraits(context_tokens=8192, tools=False)


def stage_of(tmp_path: Path, *answers: Any, **options: Any) -> Any:
    model = scripted(*answers, name="local", traits=SMALL)
    return Stage(tmp_path, {"local": model}, **options), model


async def test_the_definition_is_merged_and_judged(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, RIGHT)
    result = await stage.run()
    assert result.ended is EndReason.TESTS_PASS
    assert [(edit.path, edit.how, edit.line) for edit in result.edits] == [("calc.py", "definition", 1)]
    asked = last_told(model.requests[0])
    assert "return a - b" in asked
    assert "assert add(1, 2) == 3" in asked, "the failing test belongs to the question"
    assert model.requests[0].temperature == 0.0
    assert not model.requests[0].tools


async def test_repair_shows_the_failure_and_starts_from_the_untouched_file(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, WRONG, RIGHT)
    result = await stage.run()
    assert (result.ended, result.repairs, result.candidates_tried) == (EndReason.TESTS_PASS, 1, 1)
    assert "AssertionError" in last_told(model.requests[1])
    assert stage.workspace.commits[0]["files"]["calc.py"] == b"def add(a, b):\n    return a + b\n"


async def test_candidates_differ_by_seed_and_temperature_until_one_passes(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, WRONG, "no code at all", RIGHT)
    result = await stage.run(candidates=3, max_repairs=0)
    assert (result.ended, result.candidates_tried) == (EndReason.TESTS_PASS, 3)
    assert [(request.seed, request.temperature) for request in model.requests] == [(1, 0.0), (2, 0.6), (3, 0.6)]


async def test_without_a_passing_candidate_the_best_is_kept_and_told_truthfully(tmp_path: Path) -> None:
    better = "```python\ndef add(a, b):\n    return a * b\n\n\ndef twice(a):\n    return 2 * a\n```"
    tests = (
        "from calc import add, twice\n\ndef test_add():\n    assert add(1, 2) == 3\n\n"
        "def test_twice():\n    assert twice(2) == 4\n"
    )
    files = {"calc.py": "def add(a, b):\n    return a - b\n", "tests/test_calc.py": tests}
    stage, _ = stage_of(tmp_path, WRONG, better, WRONG, files=files)
    result = await stage.run("Mend add and add twice in calc.py", candidates=3, max_repairs=0)
    assert result.ended is EndReason.TESTS_FAIL
    assert b"def twice" in stage.workspace.commits[0]["files"]["calc.py"]
    assert result.tests_after is not None
    assert (result.tests_after.succeeded, result.tests_after.total) == (1, 2)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("```python\ndef add(:\n```", "not valid Python"),
        ("I would rather not write code.", "not valid Python"),
        (ModelAnswer(text=RIGHT, finish=Finish.LENGTH), "cut off"),
        ("```python\ndef add(a, b):\n    return a - b\n```", "changes nothing"),
    ],
)
async def test_what_can_not_be_used_comes_back_with_why(tmp_path: Path, answer: Any, complaint: str) -> None:
    stage, model = stage_of(tmp_path, answer, RIGHT)
    assert (await stage.run()).ended is EndReason.TESTS_PASS
    assert complaint in last_told(model.requests[1])


async def test_nothing_usable_at_all_is_no_change(tmp_path: Path) -> None:
    stage, _ = stage_of(tmp_path, *["nothing"] * 3)
    result = await stage.run()
    assert (result.ended, result.commit) == (EndReason.NO_CHANGE, None)


async def test_other_languages_are_written_whole_and_elisions_refused(tmp_path: Path) -> None:
    files = {"web/add.js": "export const add = (a, b) => a - b;\r\n"}
    elided = "```js\nexport const add = (a, b) => a + b;\n// ... rest unchanged\n```"
    whole = "```js\nexport const add = (a, b) => a + b;\n```"
    stage, model = stage_of(tmp_path, elided, whole, files=files)
    stage.tests = None
    result = await stage.run("Mend add in web/add.js")
    assert result.ended is EndReason.FINISHED
    assert "leaves a part of the file out" in last_told(model.requests[1])
    assert stage.workspace.commits[0]["files"]["web/add.js"] == b"export const add = (a, b) => a + b;\r\n"


async def test_the_code_index_finds_the_file_and_does_without_an_index(tmp_path: Path) -> None:
    class Search:
        async def search(self, project_id: str, query: str, *, limit: Any = 10) -> Any:
            return [
                SimpleNamespace(path="calc.py", start_line=1, end_line=2, symbol="add", score=1.0, text="def add"),
            ]

    class NoIndex:
        async def search(self, project_id: str, query: str, *, limit: Any = 10) -> Any:
            raise SearchFailed("no index", service="index", operation="search", retryable=False, reason="not_indexed")

    files = {"other.py": "x = 1\n", "calc.py": "def add(a, b):\n    return a - b\n"}
    stage, model = stage_of(tmp_path / "1", RIGHT, files=files, search=Search())
    stage.tests = None
    await stage.run("Make adding work")
    assert "File `calc.py`" in last_told(model.requests[0])
    stage, _ = stage_of(tmp_path / "2", RIGHT, files=files, search=NoIndex())
    stage.tests = None
    assert (await stage.run("Make adding work")).ended is EndReason.FINISHED


async def test_a_context_that_is_too_long_loses_quoted_files_first(tmp_path: Path) -> None:
    too_long = LlmFailed("long", service="local", operation="complete", retryable=False, reason="context_length")
    stage, model = stage_of(tmp_path, too_long, RIGHT)
    assert (await stage.run()).ended is EndReason.TESTS_PASS
    assert "Notes of the project" in last_told(model.requests[0])
    assert "Notes of the project" not in last_told(model.requests[1])
    assert "Task: " in last_told(model.requests[1])


async def test_files_given_by_the_caller_win(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, "```python\ndef mul(a, b):\n    return a * b\n```")
    stage.tests = None
    result = await stage.run("Write mul in calc.py", files=("./new/mul.py",))
    assert [(edit.path, edit.how) for edit in result.edits] == [("new/mul.py", "created")]
    assert "File `new/mul.py`" in last_told(model.requests[0])


SHAPES = {
    "shapes.py": "def area(a, b):\n    return a * b\n\n\ndef edge(a, b):\n    return 2 * (a + b)\n",
    "report.py": "from shapes import area\n\n\ndef told(a, b):\n    return f'{area(a, b)}'\n",
    "other.py": "area = 5\n",
    "tests/test_calc.py": (
        "import shapes\nfrom report import told\n\ndef test_told():\n    assert told(2, 3) == '6'\n\n"
        "def test_renamed():\n    assert not hasattr(shapes, 'area') and shapes.edge(1, 2) == 6\n"
    ),
}
RENAMED = (
    "- area is called rectangle\n\n```python\n# shapes.py\ndef rectangle(a, b):\n    return a * b\n```\n\n"
    "```python\n# report.py\nfrom shapes import rectangle\n\n\ndef told(a, b):\n    return f'{rectangle(a, b)}'\n```"
)


async def test_files_that_use_what_the_task_names_are_shown_and_can_be_changed_too(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, RENAMED, files=SHAPES)
    result = await stage.run("Rename `area` in shapes.py to `rectangle`")
    asked = last_told(model.requests[0])
    assert "File `report.py` (change it too" in asked
    assert "other.py" not in asked
    files = stage.workspace.commits[0]["files"]
    assert b"def area" not in files["shapes.py"]
    assert b"def edge" in files["shapes.py"], "what the task does not name stays"
    assert files["other.py"] == b"area = 5\n"
    assert {edit.path for edit in result.edits} == {"shapes.py", "report.py"}


async def test_a_block_for_a_file_that_was_not_shown_is_the_targets(tmp_path: Path) -> None:
    stage, _ = stage_of(tmp_path, RIGHT.replace("```python\n", "```python\n# ../../etc/passwd.py\n"))
    assert (await stage.run()).ended is EndReason.TESTS_PASS


async def test_an_answer_given_twice_is_not_tested_twice(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, WRONG, WRONG, RIGHT)
    result = await stage.run(max_repairs=2)
    assert result.ended is EndReason.TESTS_PASS
    assert "failed before" in last_told(model.requests[2])
    assert stage.tests is not None
    assert stage.tests.runs == 3, "before, the wrong one, the right one"
    assert model.requests[1].temperature == 0.6, "the same question would get the same answer"
