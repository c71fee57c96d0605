"""Real runners in the real sandbox."""

from __future__ import annotations

import asyncio
import shutil
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.test_execution.conftest import Run

from corral.errors import Unrecoverable
from corral.jobs.test_execution.artifacts import RedisArtifacts, find_artifact
from corral.jobs.test_execution.payload import TestLimits
from corral.jobs.test_execution.report import CaseOutcome, RunEnding, TestReport
from corral.jobs.test_execution.runner import TestRunner

CASES = """
    import os, unittest

    class Sums(unittest.TestCase):
        def test_right(self):
            self.assertEqual(1 + 1, 2)

        def test_wrong(self):
            self.assertEqual(1 + 1, 3)

        def test_broken(self):
            raise ValueError("boom")

        @unittest.skip("later")
        def test_later(self):
            pass
"""
OTHER = """
    def test_fine():
        assert True

    def test_bad():
        print("seen")
        assert 1 == 2
"""
P, F, E, S = CaseOutcome.PASSED, CaseOutcome.FAILED, CaseOutcome.ERROR, CaseOutcome.SKIPPED


def put(tree: Path, name: str, text: str) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


def outcomes(report: TestReport) -> dict[str, CaseOutcome]:
    return {case.key: case.outcome for case in report.cases}


async def test_unittest(run: Run, tree: Path) -> None:
    put(tree, "tests/__init__.py", "")
    put(tree, "tests/test_sums.py", CASES)
    lines: list[str] = []
    counts: list[tuple[int, int | None]] = []

    async def on_output(batch: list[str]) -> None:
        lines.extend(batch)

    async def on_progress(ended: int, expected: int | None) -> None:
        counts.append((ended, expected))

    report = await run("python3 -m unittest", on_output=on_output, on_progress=on_progress)
    assert outcomes(report) == {
        "tests/test_sums.py::Sums.test_right": P,
        "tests/test_sums.py::Sums.test_wrong": F,
        "tests/test_sums.py::Sums.test_broken": E,
        "tests/test_sums.py::Sums.test_later": S,
    }
    assert (report.runner, report.passed, report.exit_code, report.ending) == ("unittest", False, 1, RunEnding.EXITED)
    assert (report.total, report.succeeded, report.failed, report.errors, report.skipped) == (4, 1, 1, 1, 1)
    wrong = next(case for case in report.cases if case.outcome is F)
    assert wrong.message == "AssertionError: 2 != 3"
    assert "self.assertEqual(1 + 1, 3)" in (wrong.trace or "")
    assert any("Ran 4 tests" in line for line in lines)
    assert counts[-1] == (4, 4)
    assert report.environment["python3"].startswith("3.")
    assert report.environment["sandbox"].startswith("bubblewrap ")
    assert {path.name for path in tree.rglob("*")} == {"tests", "__init__.py", "test_sums.py"}


async def test_a_module_that_cannot_be_imported_is_an_error_of_the_tests(run: Run, tree: Path) -> None:
    put(tree, "test_a.py", "import nothing_of_this_name\n")
    report = await run("python3 -m unittest")
    assert not report.passed
    assert [(case.name, case.outcome) for case in report.cases] == [("import test_a", E)]
    assert "nothing_of_this_name" in (report.cases[0].trace or "")


@pytest.mark.slow
async def test_pytest(run: Run, tree: Path) -> None:
    put(tree, "tests/test_sums.py", CASES)
    put(
        tree,
        "tests/test_other.py",
        "def test_fine():\n    assert True\n\ndef test_bad():\n    print('seen')\n    assert 1 == 2\n",
    )
    put(tree, "tests/test_unimportable.py", "import nothing_of_this_name\n")
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    whole = await run("python3 -m pytest -q --continue-on-collection-errors", env=env)
    found = outcomes(whole)
    assert found["tests/test_other.py::test_fine"] is P
    assert found["tests/test_other.py::test_bad"] is F
    assert found["tests/test_sums.py::Sums::test_later"] is S
    assert found["tests/test_unimportable.py::test_unimportable.py"] is E
    bad = next(case for case in whole.cases if case.name == "test_bad")
    assert bad.message == "assert 1 == 2"
    assert "seen" in (bad.output or "")
    assert (whole.runner, whole.passed) == ("pytest", False)

    put(tree, "Makefile", "check:\n\tpython3 -m pytest -q\n")
    if shutil.which("make", path="/usr/bin:/bin"):
        limited = await run("make check", files=["./tests/test_other.py"], env=env)
        assert set(outcomes(limited)) == {"tests/test_other.py::test_fine", "tests/test_other.py::test_bad"}

    put(tree, "conftest.py", "raise RuntimeError('broken conftest')\n")
    broken = await run("python3 -m pytest", env=env)
    assert not broken.passed
    assert broken.cases[0].file == "conftest.py"
    assert broken.cases[0].outcome is E


async def test_only_the_named_files(run: Run, tree: Path) -> None:
    put(tree, "tests/__init__.py", "")
    put(tree, "tests/test_sums.py", CASES)
    put(tree, "tests/test_b.py", "import unittest\nclass B(unittest.TestCase):\n    def test_b(self): pass\n")
    report = await run("python3 -m unittest discover", files=["./tests/test_b.py"])
    assert outcomes(report) == {"tests/test_b.py::B.test_b": P}
    assert report.passed


async def test_flaky_cases_are_found_by_running_them_again(run: Run, tree: Path) -> None:
    put(
        tree,
        "test_flaky.py",
        """
        import os, unittest

        class Flaky(unittest.TestCase):
            def test_sometimes(self):
                if not os.path.exists("once"):
                    open("once", "w").close()
                    self.fail("the first time")

            def test_never(self):
                self.fail("always")

            def test_counted(self):
                with open("count", "a") as file:
                    file.write("x")
        """,
    )
    report = await run("python3 -m unittest", reruns=2)
    assert report.flaky == ("test_flaky.py::Flaky.test_sometimes",)
    assert not report.passed
    assert (tree / "count").read_text() == "x", "only failed cases are run again"


async def test_tap_on_the_output(run: Run) -> None:
    report = await run("printf 'TAP version 13\\n1..2\\nok 1 - fine\\nnot ok 2 - bad\\n'; exit 1")
    assert report.runner == "tap"
    assert outcomes(report) == {"fine": P, "bad": F}


async def test_junit_files_at_customary_places(run: Run, tree: Path) -> None:
    put(tree, "target/surefire-reports/TEST-old.xml", '<testsuite><testcase name="old"/></testsuite>')
    await asyncio.sleep(0.05)
    script = """mkdir -p build/test-results; echo '<testsuite><testcase classname="T" name="a"/></testsuite>' \
        > build/test-results/T.xml; ln -s /etc/passwd build/test-results/link.xml"""
    report = await run(script)
    assert outcomes(report) == {"T.a": P}
    assert report.runner == "junit"


async def test_a_billion_laughs_in_a_report(run: Run) -> None:
    laughs = (
        '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">'
        '<!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;"><!ENTITY e "&d;&d;&d;&d;&d;&d;&d;&d;">]>'
        '<testsuite><testcase name="&e;"/></testsuite>'
    )
    report = await run(f"cat > junit.xml <<'EOF'\n{laughs}\nEOF")
    assert (report.runner, report.total, report.passed) == ("command", 0, True)


async def test_reports_that_are_links_pipes_or_nonsense(run: Run, tree: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.xml"
    secret.write_text('<testsuite><testcase name="secret"/></testsuite>')
    put(tree, "test_ok.py", "import unittest\nclass A(unittest.TestCase):\n    def test_a(self): pass\n")
    script = (
        f"ln -s {secret} junit.xml; mkfifo test-report.xml; mkdir nosetests.xml; "
        "python3 -m unittest; rm -f /corral/report/*; "
        f"ln -s {secret} /corral/report/events.jsonl; mkfifo /corral/report/node.xml"
    )
    report = await run(script)
    assert "secret" not in report.model_dump_json().replace("secret.xml", "")


async def test_events_are_read_from_our_own_file(run: Run, tree: Path) -> None:
    put(tree, "test_ok.py", "import unittest\nclass A(unittest.TestCase):\n    def test_a(self): pass\n")
    report = await run("sleep 0; cd . && mv /corral/report/events.jsonl /corral/report/x; python3 -m unittest; true")
    assert report.total == 0 or report.passed


async def test_coverage_and_artifacts(run: Run, artifacts: RedisArtifacts) -> None:
    script = """echo '<coverage line-rate="0.875" version="1">' > coverage.xml; mkdir -p test-results/a
        printf 'image' > test-results/a/shot.png; head -c 9000000 /dev/zero > test-results/huge.zip
        ln -s /etc/passwd test-results/passwd.txt; echo no > source.txt"""
    report = await run(script)
    assert report.coverage_percent == 87.5
    assert [(kept.path, kept.size_bytes) for kept in report.artifacts] == [("test-results/a/shot.png", 5)]
    assert (await find_artifact(artifacts, "demo", report, report.artifacts[0].stored_as)).content == b"image"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no-such-program", "command_not_found"),
        ("./not-executable", "command_not_found"),
        ("python3 -m unittest", "no_tests_collected"),
        ("python3 -m unittest discover -s nowhere", "tests_not_run"),
        ("python3 -m pytest --no-such-option", "tests_not_run"),
    ],
)
async def test_tests_that_cannot_be_run_are_a_failure(run: Run, tree: Path, command: str, reason: str) -> None:
    put(tree, "not-executable", "x")
    with pytest.raises(Unrecoverable) as caught:
        await run(command)
    assert caught.value.reason in (reason, "command_not_found")


async def test_exit_codes_of_unknown_commands(run: Run) -> None:
    assert (await run("exit 0")).passed
    failed = await run("echo why; exit 3")
    assert (failed.passed, failed.exit_code, failed.runner, failed.output_tail) == (False, 3, "command", "why\n")


async def test_a_bound_is_a_report(run: Run, tree: Path) -> None:
    put(
        tree,
        "test_slow.py",
        """
        import time, unittest
        class Slow(unittest.TestCase):
            def test_a(self): pass
            def test_b(self): time.sleep(600)
        """,
    )
    report = await run("python3 -m unittest", timeout=timedelta(seconds=2))
    assert (report.passed, report.ending, report.exit_code) == (False, RunEnding.TIMEOUT, None)
    # What had ended by then is known.
    assert outcomes(report) == {"test_slow.py::Slow.test_a": P}
    report = await run("yes", limits=TestLimits(output_kb=64))
    assert report.ending is RunEnding.OUTPUT_LIMIT
    assert len(report.output_tail) <= 32_000


async def test_an_error_in_the_log_ends_the_run(run: Run, runner: TestRunner) -> None:
    async def lost(_: list[str]) -> None:
        raise RuntimeError("lease lost")

    with pytest.raises(RuntimeError, match="lease lost"):
        await run("echo one; sleep 600", on_output=lost)


async def test_cancelling_ends_everything(run: Run, tree: Path) -> None:
    begun = asyncio.Event()

    async def on_output(_: list[str]) -> None:
        begun.set()

    task = asyncio.create_task(run("echo begun; setsid sleep 600 & sleep 600", on_output=on_output))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
