"""The texts that a pipeline writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.jobs.pr_creation.payload import PrCreation
from corral.jobs.test_execution.report import CaseOutcome, RunEnding, TestCase, TestReport
from corral.pipeline import Pipeline, test_summary, title_from

summary_of = test_summary
summary_of.__test__ = False  # type: ignore[attr-defined] # its name begins with test


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Add a thing\n\nIt was asked for.", "Add a thing"),
        ("\n\n  Add a thing  ", "Add a thing"),
        ("", "Change made by Corral"),
        ("word " * 40, "word word word word word word word word word word word word word word…"),
        ("x" * 100, "x" * 71 + "…"),
    ],
)
def test_titles(text: str, title: str) -> None:
    assert title_from(text) == title


@given(st.text(max_size=500))
def test_a_title_always_fits_a_pull_request(text: str) -> None:
    title = title_from(text)
    assert PrCreation.model_fields["title"]
    assert 1 <= len(title) <= 72
    assert "\n" not in title


def test_a_summary_names_what_failed() -> None:
    report = TestReport(
        passed=False,
        runner="pytest",
        command="pytest -q",
        commit="c",
        total=2,
        succeeded=1,
        failed=1,
        ending=RunEnding.EXITED,
        cases=(
            TestCase(name="test_good", outcome=CaseOutcome.PASSED),
            TestCase(name="test_bad", outcome=CaseOutcome.FAILED),
        ),
    )
    text = summary_of(report)
    assert "**Tests fail**: 1 of 2 passed, 1 failed" in text
    assert "`test_bad`: failed" in text
    assert "test_good" not in text


def test_both_spellings_are_understood() -> None:
    snake = Pipeline.model_validate({"task_id": "1", "user_id": "u", "project_id": "p", "prompt": "x"})
    camel = Pipeline.model_validate({"taskId": "1", "userId": "u", "projectId": "p", "prompt": "x"})
    assert snake == camel
