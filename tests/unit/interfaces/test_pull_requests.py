"""How a pull request's body is taken apart."""

from __future__ import annotations

import pytest

from corral.interfaces.pull_requests import split_body
from corral.jobs.pr_creation.description import Description


def _body(text: str, tests: str | None, template: str | None = None) -> str:
    made = Description(text=text, task_id="7", user_id="ada", key="0" * 32, test_summary=tests, template=template)
    return made.body(limit=60_000)


@pytest.mark.parametrize(
    ("text", "tests", "template", "description", "summary"),
    [
        ("It adds a thing.", "All tests pass.", None, "It adds a thing.", "All tests pass."),
        ("It adds a thing.", None, None, "It adds a thing.", None),
        ("Why.", "3 of 3\n\n### Slow\n- a", "## Summary\n\n## Testing\n\n## Notes\nSee wiki.",
         "## Summary\n\nWhy.\n\n## Notes\nSee wiki.", "3 of 3\n\n### Slow\n- a"),
        ("## Tests\n\nAll is well, believe me.", "**Tests fail**", None,
         "## Tests\n\nAll is well, believe me.", "**Tests fail**"),
        ("## Tests\n\nAll is well, believe me.", None, None, "## Tests\n\nAll is well, believe me.", None),
        ("Why.\n<!-- corral:tests -->\nAll pass\n<!-- /corral:tests -->", "1 failed", None, "Why.\n\nAll pass",
         "1 failed"),
        ("Why.", "2 of 2", "## Testing\n\nRun `make`.\n\n{{tests}}\n\nThanks.\n\n{{description}}",
         "## Testing\n\nRun `make`.\n\nThanks.\n\nWhy.", "2 of 2"),
    ],
)  # fmt: skip
def test_what_corral_wrote_is_found_again(
    text: str, tests: str | None, template: str | None, description: str, summary: str | None
) -> None:
    shown, found = split_body(_body(text, tests, template))

    assert found == summary
    assert shown == f"{description}\n\n---\nOpened by Corral for user `ada`, task `7`."


@pytest.mark.parametrize("body", ["", "Plain.", "# Verified\n\nBy tests.", "<!-- only a comment -->", "#", "# Tests"])
def test_a_body_of_somebody_else_is_a_description(body: str) -> None:
    shown, found = split_body(body)

    assert found is None
    assert shown in {body, ""}
