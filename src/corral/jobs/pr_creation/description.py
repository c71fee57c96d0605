"""What a pull request says: the project's template, filled, with the task, the tests and whose work it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from corral.adapters.mirror import Mirror

#: Where forges look for the template, in the order in which it is looked for here.
TEMPLATE_PATHS: Final = (
    ".github/pull_request_template.md",
    ".github/PULL_REQUEST_TEMPLATE.md",
    ".gitlab/merge_request_templates/Default.md",
    ".gitlab/merge_request_templates/default.md",
    ".gitea/pull_request_template.md",
    ".gitea/PULL_REQUEST_TEMPLATE.md",
    ".forgejo/pull_request_template.md",
    ".forgejo/PULL_REQUEST_TEMPLATE.md",
    "docs/pull_request_template.md",
    "docs/PULL_REQUEST_TEMPLATE.md",
    "pull_request_template.md",
    "PULL_REQUEST_TEMPLATE.md",
)

_MAX_TEMPLATE_BYTES: Final = 32 * 1024
_MARKER: Final = re.compile(r"<!-- corral:([0-9a-f]{32}) -->")
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_HEADING: Final = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$")
_SECTIONS: Final = {
    "description": re.compile(r"descri|summary|what|changes|overview|proposed", re.IGNORECASE),
    "tests": re.compile(r"test|verif|\bqa\b", re.IGNORECASE),
    "task": re.compile(r"issue|task|ticket|relat|link|reference", re.IGNORECASE),
}
_TESTS_BEGIN: Final = "<!-- corral:tests -->"
_TESTS_END: Final = "<!-- /corral:tests -->"
_TESTS: Final = re.compile(f"{_TESTS_BEGIN}\n?(.*?)\n?{_TESTS_END}", re.DOTALL)
_OURS: Final = re.compile(r"<!--\s*/?corral:.*?-->", re.DOTALL)
_CUT: Final = "\n\n… (shortened)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a pull request's body is made of."""

    text: str
    task_id: str
    user_id: str
    key: str
    #: Where the task can be seen; None: it is only named.
    task_url: str | None = None
    test_summary: str | None = None
    template: str | None = None

    def body(self, *, limit: int) -> str:
        """The whole body.

        Args:
            limit: Most characters; the test summary is shortened first, the rest never.

        Returns:
            A body that ends with the marker by which it is found again. It is longer than ``limit`` only when it can't
            be made shorter by cutting the test summary.
        """
        whole = self._assembled(self.test_summary)
        if len(whole) <= limit or not self.test_summary:
            return whole
        room = limit - len(self._assembled("x")) + 1 - len(_CUT)
        return self._assembled(self.test_summary[:room] + _CUT if room > 0 else None)

    def _assembled(self, tests: str | None) -> str:
        task = f"[{self.task_id}]({self.task_url})" if self.task_url else f"`{self.task_id}`"
        summary = _OURS.sub("", tests or "").strip()
        parts = {
            "description": _OURS.sub("", self.text).strip(),  # or it could pass its own words off as the test summary
            "tests": f"{_TESTS_BEGIN}\n{summary}\n{_TESTS_END}" if summary else "",
            "task": f"Task: {task}",
        }
        body = _filled(_OURS.sub("", self.template), parts) if self.template else _plain(parts)
        return (
            f"{body.strip()}\n\n---\nOpened by Corral for user `{self.user_id}`, task {task}.\n\n{marker(self.key)}\n"
        )


def marker(key: str) -> str:
    """An invisible line by which a pull request is recognised."""
    return f"<!-- corral:{key} -->"


def test_summary_in(body: str) -> tuple[int, int, str] | None:
    """Where a body that Corral wrote holds the test summary.

    Returns:
        Its first and last place in the body, marks included, and its text; None when there is none.
    """
    found = _TESTS.search(body)
    return (found.start(), found.end(), found[1].strip()) if found else None


def key_of(body: str) -> str | None:
    """The key that a body was marked with; None when Corral did not write it."""
    found = _MARKER.findall(body)
    return found[-1] if found else None


async def find_template(mirror: Mirror, commit: str) -> str | None:
    """The project's pull-request template at a commit of the target branch; never the change's own.

    Args:
        mirror: Where to read.
        commit: The target branch's tip.
    """
    for path in TEMPLATE_PATHS:
        found = await mirror.read_file(commit, path, max_bytes=_MAX_TEMPLATE_BYTES)
        if found is not None and found.strip():
            return found.replace("\r\n", "\n")
    return None


def _plain(parts: dict[str, str]) -> str:
    tests = f"\n\n## Tests\n\n{parts['tests']}" if parts["tests"] else ""
    return f"{parts['description']}{tests}"


def _filled(template: str, parts: dict[str, str]) -> str:
    """Put each part where the template wants it: a ``{{placeholder}}``, else the first heading that names it."""
    if any(f"{{{{{name}}}}}" in template for name in parts):
        # In one pass, so that a placeholder inside a part is text.
        return re.sub(r"\{\{(description|tests|task)\}\}", lambda found: parts[found[1]], template)
    lines = template.split("\n")
    headings = [(number, found[1]) for number, line in enumerate(lines) if (found := _HEADING.match(line))]
    where: dict[int, str] = {}
    for name, pattern in _SECTIONS.items():
        if not parts[name]:
            continue
        for number, title in headings:
            if number not in where and pattern.search(title):
                where[number] = name
                break
    if "description" not in where.values():
        return f"{parts['description']}\n\n" + _with_sections(lines, headings, where, parts)
    return _with_sections(lines, headings, where, parts)


def _with_sections(
    lines: list[str], headings: list[tuple[int, str]], where: dict[int, str], parts: dict[str, str]
) -> str:
    starts = [number for number, _ in headings]
    out: list[str] = lines[: starts[0]] if starts else list(lines)
    for position, start in enumerate(starts):
        end = starts[position + 1] if position + 1 < len(starts) else len(lines)
        section = lines[start + 1 : end]
        out.append(lines[start])
        if start in where:
            rest = _COMMENT.sub("", "\n".join(section)).strip("\n")
            out += ["", parts[where[start]], *(["", rest] if rest.strip() else []), ""]
        else:
            out += section
    if parts["tests"] and "tests" not in where.values():
        out += ["", "## Tests", "", parts["tests"]]
    return "\n".join(out)
