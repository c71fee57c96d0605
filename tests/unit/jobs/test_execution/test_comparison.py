from __future__ import annotations

from tests.support.memory_redis import MemoryRedis

from corral.jobs.payload import WireModel
from corral.jobs.test_execution.comparison import Baselines, compare
from corral.jobs.test_execution.payload import TestLimits
from corral.jobs.test_execution.report import CaseOutcome, TestCase, TestReport


def report(commit: str = "c", flaky: tuple[str, ...] = (), **outcomes: str) -> TestReport:
    cases = tuple(TestCase(name=name, outcome=CaseOutcome(outcome), trace="t") for name, outcome in outcomes.items())
    passed = not any(case.outcome in ("failed", "error") for case in cases)
    return TestReport(passed=passed, runner="pytest", command="pytest", commit=commit, cases=cases, flaky=flaky)


def test_what_a_change_broke_and_mended() -> None:
    base = report("base", a="passed", b="failed", c="error", d="failed", gone="failed")
    head = compare(base, report(a="failed", b="passed", c="failed", d="skipped", new="error", fine="passed"))
    assert head.compared_to == "base"
    assert head.newly_failing == ("a", "new")
    assert head.newly_passing == ("b",)


def test_flaky_cases_count_for_nothing() -> None:
    head = compare(report("base", flaky=("b",), a="passed", b="failed"), report(flaky=("a",), a="failed", b="passed"))
    assert (head.newly_failing, head.newly_passing) == ((), ())


def test_exit_codes_alone_are_compared() -> None:
    base = TestReport(passed=True, runner="command", command="make", commit="base")
    head = compare(base, base.model_copy(update={"passed": False, "commit": "head"}))
    assert head.newly_failing == ("make",)
    assert compare(head, base).newly_passing == ("make",)


async def test_baselines_are_kept_without_their_texts() -> None:
    redis = MemoryRedis()
    kept = Baselines(redis)
    key = kept.key(
        project_id="p", commit="c", command="pytest", files=["b", "a"], setup_command=None, env={}, limits=TestLimits(),
        environment={"python3": "3.11"},
    )  # fmt: skip
    assert await kept.get(key) is None
    await kept.put(key, report(a="failed"))
    found = await kept.get(key)
    assert found is not None
    assert found.cases[0].outcome is CaseOutcome.FAILED
    assert found.cases[0].trace is None
    assert redis.expiries_ms[key] == 7 * 24 * 3_600_000
    redis.values[key] = "{}"
    assert await kept.get(key) is None


def test_everything_that_matters_is_in_the_key() -> None:
    kept = Baselines(MemoryRedis())
    usual = {
        "project_id": "p", "commit": "c", "command": "x", "files": ["a"], "setup_command": None, "env": {"A": "1"},
        "limits": TestLimits(), "environment": {"python3": "3.11"},
    }  # fmt: skip
    changes: list[dict[str, object]] = [
        {"project_id": "q"}, {"commit": "d"}, {"command": "y"}, {"files": []}, {"setup_command": "s"},
        {"env": {"A": "2"}}, {"limits": TestLimits(memory_mb=64)}, {"environment": {"python3": "3.12"}},
    ]  # fmt: skip
    keys = {kept.key(**{**usual, **change}) for change in [{}, *changes]}  # type: ignore[arg-type]
    assert len(keys) == len(changes) + 1
    assert issubclass(TestReport, WireModel)
