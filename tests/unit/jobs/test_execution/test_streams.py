from __future__ import annotations

import json
from collections.abc import Mapping

from corral.jobs.test_execution.report import CaseOutcome
from corral.jobs.test_execution.streams import CargoParser, EventParser, GoParser, OutputParser

P, F, E, S = CaseOutcome.PASSED, CaseOutcome.FAILED, CaseOutcome.ERROR, CaseOutcome.SKIPPED


def read(parser: OutputParser, text: str, *, piece: int = 11) -> str:
    """Feed a text in small pieces; returns what people are to read."""
    content = text.encode()
    shown = b"".join(parser.feed(content[at : at + piece]) for at in range(0, len(content), piece))
    return (shown + parser.finish()).decode()


def lines(*events: Mapping[str, object]) -> str:
    return "\n".join(json.dumps(event) for event in events) + "\n"


def test_go() -> None:
    parser = GoParser()
    shown = read(
        parser,
        "noise\n"
        + lines(
            {"Action": "start", "Package": "m/a"},
            {"Action": "run", "Package": "m/a", "Test": "TestBad"},
            {"Action": "output", "Package": "m/a", "Test": "TestBad", "Output": "=== RUN   TestBad\n"},
            {"Action": "output", "Package": "m/a", "Test": "TestBad", "Output": "    a_test.go:6: noted\n"},
            {"Action": "output", "Package": "m/a", "Test": "TestBad", "Output": "    a_test.go:7: got 1\n"},
            {"Action": "fail", "Package": "m/a", "Test": "TestBad", "Elapsed": 0.25},
            {"Action": "pass", "Package": "m/a", "Test": "TestOk", "Elapsed": 0},
            {"Action": "skip", "Package": "m/a", "Test": "TestLater"},
            {"Action": "fail", "Package": "m/a"},
        )
        + "{broken\nno end",
    )
    assert [(case.name, case.outcome) for case in parser.report.cases] == [
        ("m/a.TestBad", F), ("m/a.TestOk", P), ("m/a.TestLater", S),
    ]  # fmt: skip
    assert parser.report.cases[0].message == "a_test.go:7: got 1"
    assert parser.report.cases[0].seconds == 0.25
    assert shown == "noise\n=== RUN   TestBad\n    a_test.go:6: noted\n    a_test.go:7: got 1\n{broken\nno end"


def test_go_marks_errors_since_1_25() -> None:
    parser = GoParser()
    where = {"Action": "output", "Package": "m", "Test": "TestBad"}
    read(
        parser,
        lines(
            where | {"Output": "    a_test.go:7: got 1\n", "OutputType": "error"},
            where | {"Output": "    a_test.go:8: a later note\n"},
            {"Action": "fail", "Package": "m", "Test": "TestBad"},
        ),
    )
    assert parser.report.cases[0].message == "a_test.go:7: got 1"


def test_go_packages_that_do_not_compile() -> None:
    new, old = GoParser(), GoParser()
    read(
        new,
        lines(
            {"ImportPath": "m/b [m/b.test]", "Action": "build-output", "Output": "# m/b [m/b.test]\n"},
            {"ImportPath": "m/b [m/b.test]", "Action": "build-output", "Output": "b/b_test.go:3:2: undefined: x\n"},
            {"ImportPath": "m/b [m/b.test]", "Action": "build-fail"},
            {"Action": "start", "Package": "m/b"},
            {"Action": "output", "Package": "m/b", "Output": "FAIL\tm/b [build failed]\n"},
            {"Action": "fail", "Package": "m/b", "FailedBuild": "m/b [m/b.test]"},
        ),
    )
    read(old, "# m/b [m/b.test]\nb/b_test.go:3:2: undefined: x\n" + lines({"Action": "fail", "Package": "m/b"}))
    for parser in (new, old):
        assert [(case.name, case.outcome, case.message) for case in parser.report.cases] == [
            ("m/b", E, "b/b_test.go:3:2: undefined: x")
        ]


def test_go_tests_that_take_their_package_with_them() -> None:
    parser = GoParser()
    read(
        parser,
        lines(
            {"Action": "run", "Package": "m", "Test": "TestDies"},
            {"Action": "output", "Package": "m", "Test": "TestDies", "Output": "panic: boom\n"},
            {"Action": "fail", "Package": "m"},
        ),
    )
    assert [(case.name, case.outcome, case.message) for case in parser.report.cases] == [
        ("m.TestDies", F, "panic: boom")
    ]


LIBTEST = """   Running unittests src/lib.rs (target/debug/deps/a-1)
{"type":"suite","event":"started","test_count":3}
{"type":"test","event":"started","name":"a"}
{"type":"test","name":"a","event":"ok","exec_time":0.1}
{"type":"test","name":"b","event":"failed","stdout":"thread b panicked at src/lib.rs:3:\\nassertion"}
{"type":"test","name":"c","event":"ignored","message":"not yet"}
   Running tests/api.rs (target/debug/deps/api-1)
{"type":"suite","event":"started","test_count":1}
{"type":"test","event":"started","name":"a"}
   Doc-tests a
{"type":"test","name":"src/lib.rs - add (line 3)","event":"ok"}
"""


def test_libtest() -> None:
    parser = CargoParser()
    shown = read(parser, LIBTEST)
    assert [(case.key, case.outcome) for case in parser.report.cases] == [
        ("src/lib.rs::a", P), ("src/lib.rs::b", F), ("src/lib.rs::c", S), ("tests/api.rs::a", E),
        ("src/lib.rs::src/lib.rs - add (line 3)", P),
    ]  # fmt: skip
    assert parser.report.expected == 4
    assert parser.report.cases[1].message == "thread b panicked at src/lib.rs:3:\nassertion"
    assert parser.report.cases[2].message == "not yet"
    assert parser.report.cases[3].message == "the process ended before this test did"
    assert "running 3 tests\ntest a ... ok\n" in shown
    assert "{" not in shown


def compiler(level: str, text: str, file: str | None) -> dict[str, object]:
    spans = [{"file_name": file, "is_primary": True}] if file else []
    message = {"level": level, "message": text, "rendered": f"{level}: {text}\n", "spans": spans}
    return {"reason": "compiler-message", "message": message}


def test_what_rust_does_not_compile() -> None:
    parser = CargoParser()
    shown = read(
        parser,
        lines(
            {"reason": "compiler-artifact"},
            compiler("warning", "unused", "src/lib.rs"),
            compiler("error", "cannot find x", "src/lib.rs"),
            compiler("error", "cannot find y", "src/lib.rs"),
            compiler("error", "aborting due to 2 previous errors", None),
            compiler("error", "linking failed", None),
            {"reason": "build-finished", "success": False},
            {"reason": 7},
            {"type": "other"},
        ),
    )
    assert [(case.file, case.name, case.outcome, case.message) for case in parser.report.cases] == [
        ("src/lib.rs", "compile", E, "cannot find x"), (None, "compile", E, "linking failed"),
    ]  # fmt: skip
    assert "cannot find y" in (parser.report.cases[0].trace or "")
    assert shown.startswith("warning: unused\nerror: cannot find x\n")
    assert shown.endswith('{"reason": 7}\n{"type": "other"}\n')


def test_a_line_without_an_end_does_not_pile_up() -> None:
    parser = GoParser()
    shown = sum(len(parser.feed(b"x" * 65_536)) for _ in range(64))
    assert shown > 3_000_000


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
