from __future__ import annotations

import json

import pytest

from corral.jobs.test_execution.parsing import (
    EventParser,
    UnreadableReportError,
    looks_like_tap,
    parse_go,
    parse_jest,
    parse_junit,
    parse_libtest,
    parse_mocha,
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


def test_mocha() -> None:
    bad = {"fullTitle": "a bad", "file": "/workspace/t.js", "err": {"message": "m", "stack": "s"}, "duration": 3}
    hook = {"fullTitle": '"before all" hook', "err": {"message": "h"}}
    report = parse_mocha(
        json.dumps(
            {
                "tests": [{"fullTitle": "a ok", "err": {}}, bad, {"fullTitle": "a later", "err": {}}],
                "pending": [{"fullTitle": "a later"}],
                "failures": [bad, hook],
            }
        ).encode()
    )
    assert [case.outcome for case in report.cases] == [P, F, S, E]


@pytest.mark.parametrize("parse", [parse_jest, parse_mocha])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"tests": 1, "testResults": 2}', b"[" * 100_000])
def test_hostile_json_is_refused(parse: object, content: bytes) -> None:
    with pytest.raises(UnreadableReportError):
        parse(content)  # type: ignore[operator]


def test_odd_members_are_passed_over() -> None:
    assert parse_jest(b'{"testResults": [1, null, {"assertionResults": "x"}, {"assertionResults": [3]}]}').cases == []
    assert parse_mocha(b'{"tests": [null, 3]}').cases == []


def test_go() -> None:
    lines = [
        {"Action": "start", "Package": "m/a"},
        {"Action": "output", "Package": "m/a", "Test": "TestBad", "Output": "=== RUN   TestBad\n"},
        {"Action": "output", "Package": "m/a", "Test": "TestBad", "Output": "    a_test.go:7: got 1\n"},
        {"Action": "fail", "Package": "m/a", "Test": "TestBad", "Elapsed": 0.25},
        {"Action": "pass", "Package": "m/a", "Test": "TestOk", "Elapsed": 0},
        {"Action": "skip", "Package": "m/a", "Test": "TestLater"},
        {"Action": "fail", "Package": "m/a"},
        {"Action": "output", "Package": "m/b", "Output": "undefined: x\n"},
        {"Action": "fail", "Package": "m/b"},
    ]
    report = parse_go("noise\n" + "\n".join(json.dumps(line) for line in lines) + "\n{broken\n")
    assert [(case.name, case.outcome) for case in report.cases] == [
        ("m/a.TestBad", F), ("m/a.TestOk", P), ("m/a.TestLater", S), ("m/b", E),
    ]  # fmt: skip
    assert report.cases[0].message == "a_test.go:7: got 1"


def test_libtest() -> None:
    report = parse_libtest(
        '{"type":"suite","event":"started","test_count":3}\n{"type":"test","event":"started","name":"a"}\n'
        '{"type":"test","name":"a","event":"ok","exec_time":0.1}\n'
        '{"type":"test","name":"b","event":"failed","stdout":"thread b panicked at src/lib.rs:3:\\nassertion"}\n'
        '{"type":"test","name":"c","event":"ignored"}\n'
    )
    assert [case.outcome for case in report.cases] == [P, F, S]
    assert report.expected == 3
    assert report.cases[1].message == "thread b panicked at src/lib.rs:3:\nassertion"


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


def test_events_arrive_in_pieces_and_nonsense_is_passed_over() -> None:
    parser = EventParser()
    content = (
        b'{"event": "start", "runner": "pytest"}\n{"event": "total", "count": 2}\nnonsense\n[]\n'
        b'{"event": "case", "name": "a", "file": "t.py", "outcome": "passed", "seconds": 0.1, "id": "t.py::a"}\n'
        b'{"event": "case", "name": null, "outcome": "nonsense"}\n{"event": "case", "name": "b", "outcome": "failed"}\n'
    )
    for position in range(0, len(content), 7):
        parser.feed(content[position : position + 7])
    assert parser.report.started
    assert parser.report.runner == "pytest"
    assert parser.report.expected == 2
    assert [(case.key, case.outcome) for case in parser.report.cases] == [("t.py::a", P), ("b", F)]
    assert parser.report.identities == ["t.py::a", ""]


def test_texts_are_bounded_and_harmless() -> None:
    parser = EventParser()
    event = {
        "event": "case", "name": "\x1b[31mred\x1b[0m\nname\u202e" + "x" * 9999, "outcome": "failed",
        "message": "m" * 99_999, "trace": "t" * 99_999, "output": "\x1b]0;title\x07o", "seconds": 1e300,
    }  # fmt: skip
    parser.feed(json.dumps(event).encode() + b"\n")
    (case,) = parser.report.cases
    assert case.name.startswith("red\\nnamex")
    assert len(case.name) < 600
    assert len(case.message or "") < 2100
    assert len(case.trace or "") < 8100
    assert case.output == "o"
    assert case.seconds == 0
