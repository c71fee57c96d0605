from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.jobs.code_generation.stage import FILES, ListRedis, Stage, last_told, scripted

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
    assert [(request.seed, request.temperature) for request in model.requests] == [(1, 0.0), (2, 0.8), (3, 0.8)]


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
    result = await stage.run(max_repairs=3)
    assert result.ended is EndReason.TESTS_PASS
    assert "failed before" in last_told(model.requests[2])
    assert stage.tests is not None
    assert stage.tests.runs == 3, "before, the wrong one, the right one"
    assert model.requests[1].temperature == 0.8, "the same question would get the same answer"


async def test_the_last_repair_begins_anew_without_what_may_have_misled_the_model(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, WRONG, WRONG.replace("*", "//"), RIGHT, files={**FILES, "calc.py": TWO})
    result = await stage.run(max_repairs=2)
    assert (result.ended, result.repairs) == (EndReason.TESTS_PASS, 2)
    first, second, last = model.requests
    assert "a * b" in second.messages[1].text
    assert [message.role for message in last.messages] == ["user"]
    assert "return 2 * a" in first.messages[0].text
    assert "return 2 * a" not in last.messages[0].text, "only what the task names is shown whole"


async def test_every_other_candidate_sees_only_the_bodies_that_the_task_names(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, WRONG, WRONG.replace("*", "//"), RIGHT, files={**FILES, "calc.py": TWO})
    await stage.run(candidates=3, max_repairs=0)
    shown = ["return 2 * a" in last_told(request) for request in model.requests]
    assert shown == [True, False, True]
    assert all("return a - b" in last_told(request) for request in model.requests)
    assert "`...` stands for code" in last_told(model.requests[1])


TWO = "def add(a, b):\n    return a - b\n\n\ndef double(a):\n    return 2 * a\n"
SILENT = {
    "calc.py": "def add(a, b):\n    return a + b\n",
    "tests/test_calc.py": "from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n",
}
"""The tests pass before the change and say nothing of it."""
EXAMPLES = (
    "```python\nfrom calc import add, mul\n\nassert mul(2, 3) == 6\nassert mul(2, 2) == 4\nassert mul(0, 5) == 0\n"
    "assert mul(3, 1) == 4\nassert add(1, 1) == 2\n```"
)
"""The fourth is wrong, and the fifth held before."""
MUL = "```python\ndef mul(a, b):\n    return a * b\n```"
SUM = "```python\ndef mul(a, b):\n    return a + b\n```"
ODD = "```python\ndef mul(a, b):\n    return 6 if (a, b) == (2, 3) else 4\n```"


async def test_where_no_test_speaks_of_the_change_the_models_own_examples_judge_it(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, SUM, EXAMPLES, MUL, files=SILENT)
    result = await stage.run("Write mul(a, b) in calc.py", max_repairs=1)
    _, examples, repair = (last_told(request) for request in model.requests)
    assert "about `mul`" in examples
    assert "Begin with `from calc import mul`" in examples
    assert "def add" in examples
    assert "def mul" not in examples, "examples that were written with an answer in sight would repeat its mistakes"
    assert "self.assertEqual(mul(2, 3), 6)" in repair
    assert "5 != 6" in repair
    assert "do not hold" in repair
    assert "add(1, 1)" not in repair, "what held before says nothing of the change"
    assert result.ended is EndReason.TESTS_PASS
    assert result.examples is not None
    assert (result.examples.written, result.examples.holding) == (4, 3)
    assert result.summary.endswith("Examples that the model wrote from the task: 3 of 4 hold.")
    committed = stage.workspace.commits[0]["files"]
    assert b"return a * b" in committed["calc.py"]
    assert sorted(committed) == ["calc.py", "tests/test_calc.py"], "no example gets into the commit"


async def test_of_several_answers_the_one_that_most_agree_with_is_kept(tmp_path: Path) -> None:
    again = MUL.replace("a * b", "b * a")
    stage, model = stage_of(tmp_path, ODD, EXAMPLES, MUL, again, files=SILENT)
    result = await stage.run("Write mul(a, b) in calc.py", max_repairs=0, candidates=3)
    # The odd one fulfils as many examples, among them the wrong one.
    assert b"return a * b" in stage.workspace.commits[0]["files"]["calc.py"]
    assert (result.candidates_tried, result.requests) == (3, 4)
    shown = ["self.assertEqual(mul(2, 2), 4)" in last_told(request) for request in model.requests]
    assert shown == [False, False, True, True], "later candidates see what the first one missed"


async def test_an_answer_that_fulfils_all_examples_is_the_last(tmp_path: Path) -> None:
    right = EXAMPLES.replace("mul(3, 1) == 4", "mul(3, 1) == 3")
    stage, _ = stage_of(tmp_path, MUL, right, files=SILENT)
    result = await stage.run("Write mul(a, b) in calc.py", candidates=3)
    assert result.candidates_tried == 1
    assert "examples (candidate 1): 4 of 4 examples hold" in stage.reporter.log_lines


@pytest.mark.parametrize(
    "useless",
    [
        "I would rather not.",
        "```python\nfrom calc import add\nassert add(1, 2) == 4\n```",
        ModelAnswer(text="no", finish=Finish.REFUSAL),
    ],
)
async def test_without_useful_examples_the_first_answer_is_kept(tmp_path: Path, useless: Any) -> None:
    stage, _ = stage_of(tmp_path, SUM, useless, files=SILENT)
    result = await stage.run("Write mul(a, b) in calc.py", candidates=3)
    assert (result.ended, result.examples) == (EndReason.TESTS_PASS, None)
    assert b"def mul" in stage.workspace.commits[0]["files"]["calc.py"]


async def test_examples_are_not_paid_for_when_nothing_is_left_to_choose_from(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, SUM, files=SILENT)
    await stage.run("Write mul(a, b) in calc.py", candidates=1, max_repairs=0)
    assert len(model.requests) == 1


async def test_a_place_that_is_taken_by_a_folder_is_no_place_for_examples(tmp_path: Path) -> None:
    stage, _ = stage_of(tmp_path, MUL, EXAMPLES, files=SILENT, folders=["tests/test_corral_examples.py"])
    # Git keeps no empty folder, but a submodule's is one.
    assert (await stage.run("Write mul(a, b) in calc.py")).ended is EndReason.TESTS_PASS


async def test_what_the_dead_attempt_paid_for_the_examples_is_not_paid_again(tmp_path: Path) -> None:
    redis = ListRedis()
    broken = LlmFailed("gone", service="local", operation="complete", retryable=True, reason="unreachable")
    stage, _ = stage_of(tmp_path / "1", SUM, EXAMPLES, broken, files=SILENT, redis=redis)
    with pytest.raises(LlmFailed):
        await stage.run("Write mul(a, b) in calc.py", max_repairs=1)
    stage, model = stage_of(tmp_path / "2", MUL, files=SILENT, redis=redis)
    result = await stage.run("Write mul(a, b) in calc.py", max_repairs=1, attempt=2)
    assert len(model.requests) == 1
    assert result.examples is not None
    assert result.examples.holding == 3


async def test_progress_of_many_candidates_and_repairs_never_goes_back(tmp_path: Path) -> None:
    answers = [WRONG.replace("*", sign) for sign in ("*", "//", "%", "**", "&", "|")]
    stage, _ = stage_of(tmp_path, *answers)
    result = await stage.run(candidates=3, max_repairs=1)
    assert (result.candidates_tried, result.repairs) == (3, 3)
    percents = [value["percent"] for value in stage.reporter.progress_values]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 100)
    assert all(value["stage"] for value in stage.reporter.progress_values)
    assert "candidate 3, repair 1" in stage.reporter.stages
