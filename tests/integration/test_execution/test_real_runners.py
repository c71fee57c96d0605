"""Every runner that can be had, run for real in the real sandbox on a small project of its own.

Each project under ``samples`` has the same things in it where its runner knows them: a case that passes, one that
fails, one that throws, one that is skipped, one that takes at least 120 ms, and a second file.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox
from corral.errors import Unrecoverable
from corral.jobs.test_execution.report import CaseOutcome, RunEnding, TestReport
from corral.jobs.test_execution.runner import TestRunner

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parent / "samples"
MODULES = Path(__file__).parents[2] / "runners" / "node_modules"
P, F, E, S = CaseOutcome.PASSED, CaseOutcome.FAILED, CaseOutcome.ERROR, CaseOutcome.SKIPPED

Test = Callable[..., Awaitable[TestReport]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A worker's data folder: what the first test sets up, the others find."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
async def runner(data: Path) -> AsyncIterator[TestRunner]:
    sandbox = BubblewrapSandbox(home=data / "sandbox" / "runs", read_only_paths=[MODULES] if MODULES.exists() else [])
    made = TestRunner(sandbox, data_dir=data)
    yield made
    await made.close()


@pytest.fixture
def test(runner: TestRunner, tmp_path: Path) -> Test:
    """Run a command in a copy of a sample, some of whose files are replaced (by a text) or removed (None)."""

    async def test(
        sample: str, command: str, *, change: dict[str, str | None] | None = None, seconds: float = 110, **options: Any
    ) -> TestReport:
        tree = tmp_path / f"tree-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(SAMPLES / sample, tree)
        for name, text in (change or {}).items():
            path = tree / name
            if text is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        if sample in ("jest", "vitest", "mocha"):
            options["setup_command"] = f"cp -r {MODULES} ."
        return await runner.run(
            tree, command=command, commit="c0ffee", project_id="demo", timeout=timedelta(seconds=seconds), **options
        )

    return test


def need(program: str) -> None:
    # Beside the interpreter, where the set-up puts them, or in the system's own folders: not in a user's home.
    found = shutil.which(program, path="/usr/bin:/bin") or shutil.which(program)
    if found is None or found.startswith(str(Path.home() / ".cargo")):
        pytest.skip(f"no {program} on this machine (scripts/setup.sh or .ci/run installs it)")


def need_modules() -> None:
    if not MODULES.is_dir():
        pytest.skip("no tests/runners/node_modules: scripts/setup.sh dev installs them")


def cases(report: TestReport) -> dict[str, CaseOutcome]:
    assert len({case.key for case in report.cases}) == report.total, "each case has a name of its own"
    return {case.key: case.outcome for case in report.cases}


def counts(report: TestReport) -> tuple[int, int, int, int]:
    return report.succeeded, report.failed, report.errors, report.skipped


def message(report: TestReport, name: str) -> str:
    (found,) = [case.message for case in report.cases if case.name == name]
    return found or ""


def seconds(report: TestReport, name: str) -> float:
    (found,) = [case.seconds for case in report.cases if case.name == name]
    return found


async def reason(run: Awaitable[TestReport]) -> str:
    with pytest.raises(Unrecoverable) as caught:
        await run
    return caught.value.reason or ""


#: Runner → command, the file of the cases, and another file with one case that passes.
JAVASCRIPT = {
    "jest": ("npm test", "src/sums.test.js", "src/other.test.js"),
    "vitest": ("vitest run", "src/sums.test.ts", "src/other.test.ts"),
    "mocha": ("npm test", "test/sums.js", "test/other.js"),
    "node": ("npm test", "test/sums.test.js", "test/other.test.js"),
}


@pytest.fixture(params=JAVASCRIPT)
def javascript(request: pytest.FixtureRequest) -> str:
    need("node")
    if request.param != "node":
        need_modules()
    return str(request.param)


async def test_javascript(test: Test, javascript: str) -> None:
    command, file, other = JAVASCRIPT[javascript]
    lines: list[str] = []

    async def on_output(batch: list[str]) -> None:
        lines.extend(batch)

    report = await test(javascript, command, on_output=on_output)
    hook = {'test/hooks.js::hooks "before all" hook for "never runs"': E} if javascript == "mocha" else {}
    assert cases(report) == {
        f"{file}::sums adds": P,
        f"{file}::sums is wrong": F,
        f"{file}::sums throws": F,
        f"{file}::sums later": S,
        f"{file}::sums some day": S,
        f"{file}::sums takes its time": P,
        f"{other}::other": P,
        **hook,
    }
    assert counts(report) == (3, 2, len(hook), 2)
    assert (report.runner, report.passed, report.ending) == (javascript, False, RunEnding.EXITED)
    assert report.exit_code
    assert "boom" in message(report, "sums throws")
    assert message(report, "sums is wrong")
    trace = next(case.trace for case in report.cases if case.name == "sums throws")
    assert file in (trace or "")
    assert 0.1 < seconds(report, "sums takes its time") < 10
    assert report.slowest[0] == f"{file}::sums takes its time"
    assert any("takes its time" in line or file in line for line in lines), "people see the runner's own words"


async def test_javascript_limited_to_a_file(test: Test, javascript: str) -> None:
    _, file, other = JAVASCRIPT[javascript]
    # Also when the command, or the runner's configuration, names others.
    named: dict[str, str | None] = {}
    if javascript == "mocha":
        named[".mocharc.json"] = f'{{"reporter": "dot", "spec": ["{file}"]}}'
    direct = {"jest": "jest", "vitest": "vitest run", "mocha": "mocha", "node": "node --test"}[javascript]
    limited = await test(javascript, f"{direct} {file}", files=[f"./{other}", "no/such/file.js"], change=named)
    assert (cases(limited), limited.passed) == ({f"{other}::other": P}, True)


async def test_javascript_that_cannot_be_parsed(test: Test, javascript: str) -> None:
    command, file, _ = JAVASCRIPT[javascript]
    report = await test(javascript, command, files=[file], change={file: 'test("x", () => {'})
    assert cases(report) == {f"{file}::import": E}
    assert (report.passed, counts(report)) == (False, (0, 0, 1, 0))
    expected = "PARSE_ERROR" if javascript == "vitest" else "SyntaxError"
    assert expected in message(report, "import")


async def test_javascript_without_tests(test: Test, javascript: str) -> None:
    command, file, _ = JAVASCRIPT[javascript]
    folder = file.partition("/")[0]
    assert await reason(test(javascript, command, change={folder: None})) == "no_tests_collected"
    # Found out before anything is started.
    assert await reason(test("node", command, files=["no/such/file.js"])) == "no_tests_collected"


async def test_javascript_runners_that_cannot_start(test: Test, javascript: str) -> None:
    command, _, _ = JAVASCRIPT[javascript]
    broken = {"jest": "jest.config.js", "vitest": "vitest.config.js", "mocha": ".mocharc.js"}.get(javascript)
    if broken is None:
        assert await reason(test("node", "node --test --no-such-option")) == "tests_not_run"
        assert await reason(test("node", "node-that-is-not-there --test")) == "command_not_found"
    else:
        assert await reason(test(javascript, command, change={broken: "syntax error("})) == "tests_not_run"


async def test_node_with_a_reporter_of_the_projects_own(test: Test) -> None:
    need("node")
    report = await test("node", "node --test --test-reporter=dot", files=["test/other.test.js"])
    assert cases(report) == {"test/other.test.js::other": P}
    hook = "const {describe, before, test} = require('node:test');"
    hook += "describe('d', () => { before(() => { throw new Error('no database'); }); test('n', () => {}); });"
    broken = await test("node", "node --test", change={"test": None, "test/hook.test.js": hook})
    assert cases(broken)["test/hook.test.js::d"] is E
    assert message(broken, "d") == "no database"


async def test_cases_that_had_ended_at_the_timeout_are_known(test: Test) -> None:
    need_modules()
    endless = "it('ends', () => {}); it('never', () => { for (;;); });"
    report = await test("mocha", "mocha test/endless.js", change={"test/endless.js": endless}, seconds=4)
    assert (report.ending, report.passed) == (RunEnding.TIMEOUT, False)
    assert cases(report) == {"test/endless.js::ends": P}


class TestGo:
    """Go compiles its standard library once: the first of these tests waits for it, the others find it."""

    pytestmark = pytest.mark.timeout(600)

    @pytest.fixture(autouse=True)
    def go(self) -> None:
        need("go")

    async def test_cases(self, test: Test) -> None:
        lines: list[str] = []

        async def on_output(batch: list[str]) -> None:
            lines.extend(batch)

        report = await test("go", "go test ./...", on_output=on_output, seconds=500)
        assert not report.setup_cached
        assert cases(report) == {
            "sums_test.go::example.com/sample.TestAdds": P,
            "sums_test.go::example.com/sample.TestIsWrong": F,
            "sums_test.go::example.com/sample.TestLater": S,
            "sums_test.go::example.com/sample.TestTakesItsTime": P,
            "sums_test.go::example.com/sample.TestTable/zero": P,
            "sums_test.go::example.com/sample.TestTable/one": F,
            "sums_test.go::example.com/sample.TestTable": F,
            "other/other_test.go::example.com/sample/other.TestOther": P,
            "panics/panics_test.go::example.com/sample/panics.TestFirst": P,
            "panics/panics_test.go::example.com/sample/panics.TestPanics": F,
        }
        assert (report.runner, report.passed, report.exit_code, counts(report)) == ("go", False, 1, (5, 4, 0, 1))
        assert message(report, "example.com/sample.TestIsWrong") == "sums_test.go:16: expected 4, got 3"
        assert message(report, "example.com/sample.TestTable/one") == "sums_test.go:25: one is wrong"
        assert message(report, "example.com/sample.TestLater") == "sums_test.go:19: not yet"
        assert message(report, "example.com/sample/panics.TestPanics").startswith("panic: boom")
        assert 0.1 < seconds(report, "example.com/sample.TestTakesItsTime") < 10
        assert "--- FAIL: TestIsWrong" in "\n".join(lines)
        assert not any(line.startswith("{") for line in lines), "people read no JSON"
        assert '"Action"' not in report.output_tail

    async def test_files_and_what_is_kept_of_the_compiler(self, test: Test) -> None:
        limited = await test("go", "go test ./... -v", files=["other/other_test.go"])
        assert cases(limited) == {"other/other_test.go::example.com/sample/other.TestOther": P}
        assert limited.passed
        again = await test("go", "go test -count=1 ./other")
        assert again.setup_cached, "the standard library is not compiled again"
        assert again.total == 1

    async def test_what_does_not_compile(self, test: Test) -> None:
        bad = 'package bad\nimport "testing"\nfunc TestX(t *testing.T) { missing() }\n'
        report = await test("go", "go test ./bad ./other", change={"bad/bad_test.go": bad})
        assert cases(report) == {
            "example.com/sample/bad": E,
            "other/other_test.go::example.com/sample/other.TestOther": P,
        }
        assert message(report, "example.com/sample/bad") == "bad/bad_test.go:3:28: undefined: missing"

    async def test_no_tests(self, test: Test) -> None:
        nothing: dict[str, str | None] = {"sums_test.go": None, "other": None, "panics": None}
        assert await reason(test("go", "go test ./...", change=nothing)) == "no_tests_collected"


class TestCargo:
    @pytest.fixture(autouse=True)
    def cargo(self) -> None:
        need("cargo")
        if not Path("/usr/bin/cargo").exists():
            pytest.skip("no cargo in /usr/bin (.ci/run installs Debian's)")

    async def test_cases(self, test: Test) -> None:
        report = await test("cargo", "cargo test --offline")
        assert cases(report) == {
            "src/lib.rs::tests::adds": P,
            "src/lib.rs::tests::is_wrong": F,
            "src/lib.rs::tests::later": S,
            "src/lib.rs::src/lib.rs - add (line 3)": P,
            "tests/other.rs::other": P,
            "tests/other.rs::takes_its_time": P,
        }
        assert (report.runner, report.passed, report.exit_code) == ("cargo", False, 101)
        assert "assertion" in message(report, "tests::is_wrong")
        assert message(report, "tests::later") == "not yet"
        assert 0.1 < seconds(report, "takes_its_time") < 10
        assert "test tests::adds ... ok" in report.output_tail
        assert "{" not in report.output_tail.partition("running")[0], "people read no JSON"

    async def test_files(self, test: Test) -> None:
        limited = await test("cargo", "cargo test", files=["tests/other.rs"])
        assert cases(limited) == {"tests/other.rs::other": P, "tests/other.rs::takes_its_time": P}
        assert limited.passed

    async def test_what_does_not_compile(self, test: Test) -> None:
        bad = '#[test]\nfn x() { missing() }\n#[test]\nfn y() { 1 + "x"; }\n'
        report = await test("cargo", "cd . && cargo test -- --test-threads=1", change={"tests/bad.rs": bad})
        assert cases(report) == {"tests/bad.rs::compile": E}
        assert message(report, "compile") == "cannot find function `missing` in this scope"
        assert "cannot add" in (report.cases[0].trace or "")
        assert not report.passed

    async def test_a_process_that_dies_in_a_test(self, test: Test) -> None:
        change = {"tests": None, "src/lib.rs": "#[test]\nfn dies() { std::process::abort() }\n"}
        report = await test("cargo", "cargo test --lib", change=change)
        assert cases(report) == {"src/lib.rs::dies": E}

    async def test_tests_that_cannot_be_run(self, test: Test) -> None:
        nothing: dict[str, str | None] = {"tests": None, "src/lib.rs": "pub fn nothing() {}\n"}
        assert await reason(test("cargo", "cargo test --lib", change=nothing)) == "no_tests_collected"
        assert await reason(test("cargo", "cargo test --no-such-option")) == "tests_not_run"
        assert await reason(test("cargo", "/usr/bin/cargo-that-is-not-there test")) == "command_not_found"
