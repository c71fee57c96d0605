from __future__ import annotations

import pytest

from corral.jobs.pr_creation.description import Description, key_of
from corral.jobs.pr_creation.guard import matches
from corral.jobs.pr_creation.records import idempotency_key

KEY = "0123456789abcdef" * 2


def body(template: str | None = None, *, limit: int = 65_536, **fields: str) -> str:
    return Description(
        **{"text": "It adds.", "task_id": "7", "user_id": "ada", "key": KEY, **fields},
        template=template,
    ).body(limit=limit)


def test_without_a_template_all_is_there_and_the_key_is_found() -> None:
    made = body(test_summary="3 passed", task_url="https://p/tasks/7")
    assert made.index("It adds.") < made.index("3 passed") < made.index("[7](https://p/tasks/7)")
    assert "`ada`" in made
    assert key_of(made) == KEY
    assert key_of("by hand") is None


def test_the_last_marker_counts_as_a_description_may_quote_one() -> None:
    assert key_of(body(text=f"see <!-- corral:{'f' * 32} -->")) == KEY


def test_placeholders_are_filled_once_and_not_inside_what_fills_them() -> None:
    made = body("D: {{description}}\nT: {{tests}}\nK: {{task}}", text="{{tests}}", test_summary="ok")
    assert "D: {{tests}}" in made
    assert "T: <!-- corral:tests -->\nok\n<!-- /corral:tests -->" in made
    assert "K: Task: `7`" in made


def test_headings_are_filled_and_comments_in_them_dropped() -> None:
    made = body("Hello\n\n## Summary\n<!-- what -->\n\n## Related issue\n\n## Checklist\n- [ ] x <!-- keep -->")
    assert made.startswith("Hello\n\n## Summary\n\nIt adds.")
    assert made.index("## Related issue") < made.index("Task: `7`") < made.index("## Checklist")
    assert "<!-- what -->" not in made
    assert "<!-- keep -->" in made


def test_a_template_without_a_place_for_it_comes_after_the_description() -> None:
    made = body("## Checklist\n- [ ] x", test_summary="ok")
    assert made.index("It adds.") < made.index("## Checklist") < made.index("## Tests")


@pytest.mark.parametrize("limit", [200, 400, 1000])
def test_only_the_test_summary_is_shortened(limit: int) -> None:
    made = body(test_summary="x" * 5000, limit=limit)
    assert len(made) <= limit
    assert "It adds." in made
    assert key_of(made) == KEY


@pytest.mark.parametrize(
    ("path", "glob", "expected"),
    [
        (".github/workflows/a/b.yml", ".github/workflows/**", True),
        (".github/workflows", ".github/workflows/**", False),
        ("a/b.py", "*.py", False),
        ("b.py", "*.py", True),
        ("a/b.py", "**.py", True),
        ("a.b", "a?b", True),
        ("axb", "a.b", False),
        ("a\nb", "a?b", True),
    ],
)
def test_globs(path: str, glob: str, *, expected: bool) -> None:
    assert matches(path, glob) is expected


def test_the_key_depends_on_each_part() -> None:
    keys = {
        idempotency_key("p", "s", "t", "c"),
        idempotency_key("p2", "s", "t", "c"),
        idempotency_key("p", "s2", "t", "c"),
        idempotency_key("p", "s", "t2", "c"),
        idempotency_key("p", "s", "t", "c2"),
    }
    assert len(keys) == 5
    assert all(len(key) == 32 for key in keys)
