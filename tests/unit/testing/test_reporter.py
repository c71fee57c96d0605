"""The recording reporter keeps what a handler says, in order."""

from __future__ import annotations

import pytest

from corral.errors import LeaseLost
from corral.testing import RecordingReporter, job_for


async def test_it_keeps_progress_and_logs() -> None:
    reporter = RecordingReporter(results_of_children={"bull:a:1": 2}, failures_of_children={"bull:a:2": "no"})
    job = job_for({"n": 1}, reporter=reporter, attempt=2, max_attempts=3)
    await job.progress(10)
    await job.progress({"percent": 50, "stage": "half"})
    await job.log("a", "b")
    await job.log("c")
    assert reporter.progress_values == [10, {"percent": 50, "stage": "half"}]
    assert (reporter.last_percent, reporter.stages, reporter.log_lines) == (50.0, ["half"], ["a", "b", "c"])
    assert await job.children_results() == {"bull:a:1": 2}
    assert await job.children_failures() == {"bull:a:2": "no"}
    assert (job.data, job.attempt, job.max_attempts) == ({"n": 1}, 2, 3)


async def test_it_plays_a_lost_lease() -> None:
    reporter = RecordingReporter(fail_with=LeaseLost())
    job = job_for(None, reporter=reporter)
    with pytest.raises(LeaseLost):
        await job.progress(1)
    with pytest.raises(LeaseLost):
        await job.log("x")
    assert (reporter.progress_values, reporter.log_lines, reporter.last_percent) == ([], [], None)
