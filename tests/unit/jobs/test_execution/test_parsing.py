from __future__ import annotations

import json

import pytest

from corral.jobs.test_execution.parsing import (
    UnreadableReportError,
    looks_like_tap,
    parse_jest,
    parse_junit,
    parse_tap,
)
from corral.jobs.test_execution.report import CaseOutcome

P, F, E, S = CaseOutcome.PASSED, CaseOutcome.FAILED, CaseOutcome.ERROR, CaseOutcome.SKIPPED


def test_junit() -> None:
    report = parse_junit(b"""<?xml version="1.0"?>
<testsuites><testsuite name="s">
  <testcase classname="pkg.T" name="ok" time="0.5"/>
  <testcase classname="pkg.T" name="bad" time="1,000.25" file="/workspace/t/a.py">
    <failure message="1 != 2">trace</failure><system-out>printed</system-out></testcase>
  <testcase name="broken"><error message="boom" type="X"/></testcase>
  <testcase name="later"><skipped message="no"/></testcase>
  <testsuite name="inner"><testcase name="nested"/></testsuite>
</testsuite></testsuites>""")
    assert [(case.name, case.outcome) for case in report.cases] == [
        ("pkg.T.ok", P), ("bad", F), ("broken", E), ("later", S), ("nested", P),
    ]  # fmt: skip
    assert report.cases[1].file == "t/a.py"
    assert report.cases[1].message == "1 != 2"
    assert report.cases[1].output == "printed"
    assert report.cases[0].seconds == 0.5


def test_suites_in_suites_in_suites() -> None:
    depth = 5000
    content = b"<testsuite>" * depth + b'<testcase name="deep"/>' + b"</testsuite>" * depth
    assert [case.name for case in parse_junit(content).cases] == ["deep"]


LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY a "&lol;&lol;&lol;&lol;&lol;&lol;">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d "&c;&c;&c;&c;&c;&c;&c;">]>
<testsuite><testcase name="&d;"/></testsuite>"""


@pytest.mark.parametrize(
    "content",
    [
        LAUGHS,
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><testsuite><testcase name="&e;"/></testsuite>',
        b"<html/>",
        b"<testsuite>",
        b"",
        b"\xff\xfe\x00",
        b"<testsuite>" * 200_000,
    ],
    ids=["laughs", "external", "html", "cut", "empty", "bytes", "deep"],
)
def test_hostile_xml_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableReportError):
        parse_junit(content)


def test_jest() -> None:
    report = parse_jest(
        json.dumps(
            {
                "testResults": [
                    {
                        "name": "/workspace/src/a.test.js",
                        "status": "failed",
                        "assertionResults": [
                            {"fullName": "adds", "status": "passed", "duration": 12},
                            {"fullName": "fails", "status": "failed", "failureMessages": ["Error: x\n  at y"]},
                            {"fullName": "later", "status": "todo"},
                        ],
                    },
                    {"name": "/workspace/b.js", "status": "failed", "message": "SyntaxError", "assertionResults": []},
                ]
            }
        ).encode()
    )
    assert [(case.key, case.outcome) for case in report.cases] == [
        ("src/a.test.js::adds", P), ("src/a.test.js::fails", F), ("src/a.test.js::later", S), ("b.js::import", E),
    ]  # fmt: skip
    assert report.cases[0].seconds == 0.012
    assert report.cases[1].message == "Error: x"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"tests": 1, "testResults": 2}', b"[" * 100_000])
def test_hostile_json_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableReportError):
        parse_jest(content)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("  ● Test suite failed\n\n    Jest found:\n\n    SyntaxError: a.js (1:2)\n", "SyntaxError: a.js (1:2)"),
        ("Transform failed:\n\n\x1b[31m[PARSE_ERROR]\x1b[0m Expected `)`", "[PARSE_ERROR] Expected `)`"),
        ("  ● Test suite failed\n\n    It must contain a test.\n", "It must contain a test."),
        (None, None),
    ],
)
def test_why_a_file_could_not_be_loaded(said: str | None, message: str | None) -> None:
    suite: dict[str, object] = {"name": "/workspace/a.js", "status": "failed", "message": said, "assertionResults": []}
    (case,) = parse_jest(json.dumps({"testResults": [suite]}).encode()).cases
    assert (case.outcome, case.message) == (E, message)


def test_odd_members_are_passed_over() -> None:
    assert parse_jest(b'{"testResults": [1, null, {"assertionResults": "x"}, {"assertionResults": [3]}]}').cases == []


TAP = """TAP version 13
1..4
ok 1 - adds
not ok 2 - divides
  ---
  message: by zero
  ...
ok 3 - later # SKIP not yet
# Subtest: group
    ok 1 - inner
ok 4 - group
"""


def test_tap() -> None:
    assert looks_like_tap(TAP)
    report = parse_tap(TAP)
    assert [(case.name, case.outcome) for case in report.cases] == [
        ("adds", P), ("divides", F), ("later", S), ("group", P),
    ]  # fmt: skip
    assert "by zero" in str(report.cases[1].trace)
    assert report.expected == 4


def test_other_output_is_no_tap() -> None:
    assert not looks_like_tap("ok\nall fine\n")
    assert not looks_like_tap("1..3 of 5 files\n")
