"""What a command says and how it ends."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from corral import errors
from corral.interfaces.cli.output import ExitCode, Output, as_json, exit_code_of
from corral.jobs.code_generation.payload import CodeGeneration


@dataclass(frozen=True)
class _Sample:
    job_type: str = "code-generation"
    created_at: datetime = datetime(2030, 1, 31, 9, tzinfo=UTC)
    lasted: timedelta = timedelta(seconds=1.5)
    data: dict[str, object] = field(default_factory=lambda: {"snake_case": (1, 2)})
    _secret: str = "hidden"


def test_fields_are_camel_case_and_data_stays_as_it_is() -> None:
    assert as_json([_Sample()]) == [
        {
            "jobType": "code-generation",
            "createdAt": "2030-01-31T09:00:00Z",
            "lasted": 1.5,
            "data": {"snake_case": [1, 2]},
        }
    ]


def test_models_are_in_the_wire_s_spelling() -> None:
    document = as_json({"payload": CodeGeneration(task_id="1", user_id="u", project_id="p", prompt="x")})
    assert document["payload"]["taskId"] == "1"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.PayloadInvalid(), ExitCode.USAGE),
        (errors.JobNotFound(), ExitCode.NOT_FOUND),
        (errors.UnknownProject(), ExitCode.NOT_FOUND),
        (errors.UnknownJobType(), ExitCode.NOT_FOUND),
        (errors.JobStateConflict(), ExitCode.CONFLICT),
        (errors.StoreUnavailable(), ExitCode.UNAVAILABLE),
        (errors.StoreAuthenticationFailed(), ExitCode.CONFIGURATION),
        (errors.SandboxUnavailable(), ExitCode.CONFIGURATION),
        (errors.ResultTimedOut(), ExitCode.TIMED_OUT),
        (errors.JobFailed(), ExitCode.FAILED),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: errors.CorralError, code: ExitCode) -> None:
    assert exit_code_of(error) is code


def test_an_error_is_one_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    Output().fail(errors.JobNotFound("no job [1]\nin the queue"), code=ExitCode.NOT_FOUND)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "corral: no job [1] in the queue\n"


def test_an_error_is_one_object_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json_lines=True)
    output.note("not for programs")
    output.fail(errors.JobNotFound("no job"), code=ExitCode.NOT_FOUND)
    assert json.loads(capsys.readouterr().err) == {"error": "JobNotFound", "message": "no job", "exitCode": 3}
