"""The handler over a real repository, a real worktree and the real sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.memory_redis import MemoryRedis
from tests.support.repositories import Repository

from corral.adapters.workspace import Workspaces
from corral.commits import CommitStore
from corral.errors import UnknownProject, Unrecoverable
from corral.jobs.test_execution.comparison import Baselines
from corral.jobs.test_execution.handler import TestExecutionHandler
from corral.jobs.test_execution.payload import TestExecution
from corral.jobs.test_execution.runner import TestRunner
from corral.projects import Project, ProjectStore
from corral.testing.reporter import RecordingReporter, job_for

FILES = {
    "calc.py": "def add(a, b):\n    return a - b\n",
    "test_calc.py": (
        "import unittest\nfrom calc import add\n\n\nclass Calc(unittest.TestCase):\n"
        "    def test_zero(self):\n        self.assertEqual(add(1, 0), 1)\n\n"
        "    def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n"
    ),
}
MEND = "--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a - b\n+    return a + b\n"
BREAK = MEND.replace("+    return a + b", "+    return b - a")


@pytest.fixture
async def handler(tmp_path: Path, runner: TestRunner) -> TestExecutionHandler:
    repository = Repository(tmp_path / "repository", FILES)
    redis = MemoryRedis()
    projects = ProjectStore(redis, prefix="corral:bull")
    await projects.add(Project(id="demo", repository=str(repository.bare)))
    workspaces = Workspaces(data_dir=tmp_path / "data", commits=CommitStore(redis))
    return TestExecutionHandler(projects=projects, workspaces=workspaces, runner=runner, baselines=Baselines(redis))


def payload(**changes: object) -> TestExecution:
    return TestExecution.model_validate(
        {"taskId": "t", "userId": "u", "projectId": "demo", "testCommand": "python3 -m unittest", **changes}
    )


async def test_failing_tests_are_a_result(handler: TestExecutionHandler) -> None:
    reporter = RecordingReporter()
    report = await handler(job_for(payload(), reporter=reporter))
    assert (report.passed, report.succeeded, report.failed) == (False, 1, 1)
    assert len(report.commit) == 40
    assert any("FAILED" in line for line in reporter.log_lines)
    assert reporter.stages[0] == "checkout"
    assert reporter.last_percent == 100


async def test_a_patch_is_judged_against_its_base(handler: TestExecutionHandler, tmp_path: Path) -> None:
    better = await handler(job_for(payload(patch=MEND, compareTo="main")))
    assert better.passed
    assert better.newly_passing == ("test_calc.py::Calc.test_add",)
    assert better.newly_failing == ()
    reporter = RecordingReporter()
    worse = await handler(job_for(payload(patch=BREAK, compareTo="main"), reporter=reporter))
    assert worse.newly_failing == ("test_calc.py::Calc.test_zero",)
    assert not any("for the comparison" in line for line in reporter.log_lines), "the base's result is cached"
    assert not list((tmp_path / "data" / "projects" / "demo" / "worktrees").glob("*/tree"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"commitId": "0" * 40}, "commit_not_found"),
        ({"patch": BREAK.replace("a - b", "x")}, "patch_does_not_apply"),
        ({"testCommand": "no-such-program"}, "command_not_found"),
        ({"files": ["../x"]}, "files_invalid"),
        ({"setupCommand": "exit 1"}, "setup_failed"),
    ],
)
async def test_what_cannot_be_run_is_a_failure_with_its_reason(
    handler: TestExecutionHandler, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(Unrecoverable) as caught:
        await handler(job_for(payload(**changes)))
    assert caught.value.reason == reason


async def test_an_unknown_project(handler: TestExecutionHandler) -> None:
    with pytest.raises(UnknownProject):
        await handler(job_for(payload(projectId="other")))
