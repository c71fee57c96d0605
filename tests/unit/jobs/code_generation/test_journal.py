from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.jobs.code_generation.stage import EDIT, FINISH, ListRedis, Stage, calls, scripted

from corral.errors import LlmFailed
from corral.jobs.code_generation.journal import Journal
from corral.jobs.code_generation.result import EndReason


def counting(answers: Any) -> Any:
    asked = []

    def ask(answer: Any) -> Any:
        async def one() -> Any:
            asked.append(answer)
            return answer

        return one

    return asked, [ask(answer) for answer in answers]


async def test_a_second_attempt_gets_the_finished_steps_for_nothing() -> None:
    redis = ListRedis()
    asked, (one, two, three) = counting(["1", "2", "3"])
    first = Journal(redis, key="k")
    await first.open()
    assert await first.step("ask", "a", one) == ("1", False)
    assert await first.step("tests", "b", two) == ("2", False)
    second = Journal(redis, key="k")
    await second.open()
    assert await second.step("ask", "a", one) == ("1", True)
    assert await second.step("tests", "b", two) == ("2", True)
    assert await second.step("ask", "c", three) == ("3", False)
    assert (asked, second.resumed) == (["1", "2", "3"], 2)
    assert redis.expiries_s == {"k": 24 * 3600}
    await second.finish()
    assert redis.expiries_s == {"k": 120}


async def test_a_killed_workers_successor_repeats_what_was_done_for_nothing_and_a_new_run_does_not() -> None:
    redis = ListRedis()
    _, (one, two, three) = counting(["1", "2", "3"])
    first = Journal(redis, key="k")
    await first.open(again=False)
    await first.step("ask", "a", one)
    await first.finish()
    await first.finish()  # as when an answer of Redis was lost
    second = Journal(redis, key="k")
    await second.open(again=True)
    assert await second.step("ask", "a", two) == ("1", True)
    assert await second.step("ask", "b", two) == ("2", False)
    await second.finish()
    third = Journal(redis, key="k")
    await third.open(again=False)
    assert await third.step("ask", "a", three) == ("3", False)
    assert len(redis.lists["k"]) == 1


async def test_steps_on_another_commit_are_dropped() -> None:
    redis = ListRedis()
    _, (one, two) = counting(["1", "2"])
    first = Journal(redis, key="k")
    await first.open()
    assert first.base is None
    await first.begin("old")
    await first.step("ask", "a", one)
    second = Journal(redis, key="k")
    await second.open()
    assert second.base == "old"
    await second.begin("old")
    assert await second.step("ask", "a", two) == ("1", True)
    assert second.resumed == 1
    third = Journal(redis, key="k")
    await third.open()
    await third.begin("new")
    assert await third.step("ask", "a", two) == ("2", False)
    assert third.base == "new"


async def test_of_two_attempts_at_once_only_one_keeps_its_steps() -> None:
    """One whose lease is lost goes on until it is told; what it says must not get among the other's steps."""
    redis = ListRedis()
    _, asks = counting(["1", "2", "3", "4"])
    slow, quick = Journal(redis, key="k"), Journal(redis, key="k")
    await slow.open()
    await quick.open()
    await quick.step("ask", "a", asks[0])
    assert await slow.step("ask", "a", asks[1]) == ("2", False)
    await quick.step("ask", "b", asks[2])
    await slow.step("ask", "b", asks[3])
    assert [json.loads(line)["answer"] for line in redis.lists["k"]] == ["1", "3"]


@pytest.mark.parametrize(("kind", "question"), [("ask", "other"), ("tests", "a")])
async def test_another_question_drops_the_rest(kind: str, question: str) -> None:
    redis = ListRedis()
    _, (one, two, three) = counting(["1", "2", "3"])
    first = Journal(redis, key="k")
    await first.open()
    await first.step("ask", "a", one)
    await first.step("ask", "b", two)
    second = Journal(redis, key="k")
    await second.open()
    assert await second.step(kind, question, three) == ("3", False)
    assert await second.step("ask", "b", two) == ("2", False)
    assert len(redis.lists["k"]) == 2


async def test_a_step_that_failed_is_not_recorded() -> None:
    redis = ListRedis()

    async def fail() -> Any:
        raise RuntimeError("no")

    journal = Journal(redis, key="k")
    await journal.open()
    with pytest.raises(RuntimeError):
        await journal.step("ask", "a", fail)
    assert redis.lists == {}


async def test_a_job_whose_worker_died_pays_for_no_step_twice(tmp_path: Path) -> None:
    redis = ListRedis()

    class Died(BaseException):
        """The worker is gone: no handler of ours may catch it."""

    died = Stage(tmp_path / "1", {"scripted": scripted(calls(EDIT), Died())}, redis=redis)
    with pytest.raises(Died):
        await died.run()
    model = scripted(calls(FINISH))
    stage = Stage(tmp_path / "2", {"scripted": model}, redis=redis)
    result = await stage.run()
    assert result.ended is EndReason.TESTS_PASS
    assert len(model.requests) == 1, "the edit was not asked for again"
    assert stage.tests is not None
    assert stage.tests.runs == 1, "the tests before the change were not run again"
    assert result.resumed_steps == 2
    assert list(redis.expiries_s.values()) == [120], "a finished job's steps don't stay for long"


async def test_another_prompt_starts_anew(tmp_path: Path) -> None:
    redis = ListRedis()
    first = Stage(tmp_path / "1", {"scripted": scripted(calls(EDIT), RuntimeError("lost"))}, redis=redis)
    with pytest.raises(RuntimeError):
        await first.run("One thing")
    second = Stage(tmp_path / "2", {"scripted": scripted(calls(EDIT), calls(FINISH))}, redis=redis)
    assert (await second.run("Another thing")).resumed_steps == 0


async def test_a_step_of_many_megabytes_is_kept_too() -> None:
    redis = ListRedis()
    large = json.dumps([f"line {number} ä" for number in range(300_000)], ensure_ascii=False)
    _, (one, two) = counting([large, "2"])
    first = Journal(redis, key="k")
    await first.open()
    await first.step("tests", "a", one)
    await first.step("ask", "b", two)
    assert len(large) > 4 << 20 > len(redis.lists["k"][0])
    second = Journal(redis, key="k")
    await second.open()
    assert await second.step("tests", "a", two) == (large, True)
    assert await second.step("ask", "b", one) == ("2", True)


async def test_what_a_job_keeps_is_bounded_and_told() -> None:
    redis = ListRedis()
    told: list[str] = []

    async def tell(line: str) -> None:
        told.append(line)

    _, (one, two, three) = counting(["x" * 500, "y" * 600, "3"])
    journal = Journal(redis, key="k", tell=tell, most_characters=1000)
    await journal.open()
    assert [await journal.step("ask", question, ask) for question, ask in (("a", one), ("b", two), ("c", three))] == [
        ("x" * 500, False), ("y" * 600, False), ("3", False),
    ]  # fmt: skip
    assert len(redis.lists["k"]) == 1, "what came after the step that was not kept is of no use"
    assert len(told) == 1
    assert "goes on from step 1" in told[0]
    second = Journal(redis, key="k", most_characters=1000)
    await second.open()
    assert await second.step("ask", "a", two) == ("x" * 500, True)
    await journal.finish()
    assert redis.expiries_s == {"k": 120}


class Died(BaseException):
    """The worker is gone: no handler of ours may catch it."""


def failure(reason: str) -> LlmFailed:
    return LlmFailed(reason, service="a", operation="complete", retryable=False, reason=reason)


async def test_after_a_model_was_given_up_on_the_others_answers_are_not_paid_for_again(tmp_path: Path) -> None:
    redis = ListRedis()
    models = {"a": scripted(failure("quota_exceeded"), name="a"), "b": scripted(calls(EDIT), Died(), name="b")}
    with pytest.raises(Died):
        await Stage(tmp_path / "1", models, redis=redis).run(fallback_models=("b",))
    first, second = scripted(name="a"), scripted(calls(FINISH), name="b")
    stage = Stage(tmp_path / "2", {"a": first, "b": second}, redis=redis)
    result = await stage.run(starts=2, fallback_models=("b",))
    assert result.models_failed == {"a": "quota_exceeded"}
    assert (len(first.requests), len(second.requests), result.model) == (0, 1, "b")


async def test_whoever_runs_a_failed_job_again_has_its_first_model_asked_again(tmp_path: Path) -> None:
    redis = ListRedis()
    models = {"a": scripted(failure("quota_exceeded"), name="a"), "b": scripted(failure("rejected"), name="b")}
    with pytest.raises(LlmFailed):
        await Stage(tmp_path / "1", models, redis=redis).run(fallback_models=("b",))
    again = {"a": scripted(calls(EDIT), calls(FINISH), name="a"), "b": scripted(name="b")}
    stage = Stage(tmp_path / "2", again, redis=redis)
    result = await stage.run(fallback_models=("b",))
    assert (result.model, result.resumed_steps) == ("a", 1)
    assert stage.tests is not None
    assert stage.tests.runs == 1, "the tests before the change were not run again"


async def test_a_context_that_was_too_long_once_is_not_found_out_again(tmp_path: Path) -> None:
    redis = ListRedis()
    long = calls(("read_file", '{"path": "calc.py"}'), text="x" * 20_000)
    died = scripted(long, failure("context_length"), calls(EDIT), Died())
    with pytest.raises(Died):
        await Stage(tmp_path / "1", {"scripted": died}, redis=redis).run()
    model = scripted(calls(FINISH))
    result = await Stage(tmp_path / "2", {"scripted": model}, redis=redis).run(starts=2)
    assert result.ended is EndReason.TESTS_PASS
    assert len(model.requests) == 1
