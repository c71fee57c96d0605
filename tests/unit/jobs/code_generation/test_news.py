from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.jobs.code_generation.stage import EDIT, FINISH, Stage, calls, scripted

from corral.errors import LeaseLost, StoreUnavailable
from corral.jobs.code_generation.news import News
from corral.testing import RecordingReporter, job_for


def news(reporter: RecordingReporter, **job: Any) -> News:
    return News(job_for(None, reporter=reporter, **job))


def percents(reporter: RecordingReporter) -> list[Any]:
    return [value["percent"] for value in reporter.progress_values if isinstance(value, dict)]


async def test_progress_never_goes_back_from_one_attempt_to_the_next(tmp_path: Path) -> None:
    reporter = RecordingReporter()
    stage = Stage(tmp_path, {"scripted": scripted(calls(EDIT), calls(FINISH))}, reporter=reporter)
    await stage.run(attempt=2, starts=2, reported={"percent": 57.3, "stage": "candidate 1, step 3"})
    assert percents(reporter)[0] == 57.3
    assert percents(reporter) == sorted(percents(reporter))
    assert percents(reporter)[-1] == 100
    assert reporter.stages[0] == "checkout"


@pytest.mark.parametrize(
    ("starts", "reported", "first"),
    [(1, None, 0), (1, {"percent": 100, "stage": "done"}, 0), (2, None, 0), (3, 40, 40), (2, "nonsense", 0)],
)
async def test_a_job_that_had_ended_and_is_run_again_begins_at_0(starts: int, reported: Any, first: float) -> None:
    reporter = RecordingReporter()
    await news(reporter, starts=starts, reported=reported).progress(0, "checkout")
    assert percents(reporter) == [first]


async def test_what_can_not_be_told_while_redis_is_away_is_told_later() -> None:
    reporter = RecordingReporter()
    told = news(reporter)
    await told.log("1")
    reporter.fail_with = StoreUnavailable()
    await told.log("2", "3")
    await told.progress(50, "away")
    await told.log(*(str(number) for number in range(4, 3001)))
    reporter.fail_with = None
    await told.progress(10, "back")
    await told.log("3001")
    assert reporter.log_lines == ["1", *(str(number) for number in range(1002, 3002))]
    assert reporter.progress_values == [{"percent": 50, "stage": "back"}]
    await told.log("3002")
    assert reporter.log_lines[-1] == "3002"
    assert len(reporter.log_lines) == 2002


async def test_a_lost_lease_is_no_outage() -> None:
    reporter = RecordingReporter(fail_with=LeaseLost())
    with pytest.raises(LeaseLost):
        await news(reporter).log("1")
    with pytest.raises(LeaseLost):
        await news(reporter).progress(1, "x")
