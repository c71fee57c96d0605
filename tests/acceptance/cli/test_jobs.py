"""One job by the command line: added, watched, read, stopped, repeated."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from tests.acceptance.cli.conftest import Cli, start_worker

Documents = Callable[..., list[Any]]


def test_a_job_is_added_run_and_shown(worker: subprocess.Popen[str], cli: Cli, documents: Documents) -> None:
    added = cli("add", "greet", "-d", '{"name": "Ada"}', "--id", "first", "--watch")
    assert added.exit_code == 0, added.output
    assert "greeting Ada" in added.stderr
    assert "hello Ada" in added.stdout

    (status,) = documents("status", "greet", "first")
    assert (status["state"], status["progress"], status["result"]) == ("completed", 100.0, {"text": "hello Ada"})
    assert status["attempts"] == 1
    (logs,) = documents("logs", "greet", "first")
    assert (logs["lines"], logs["total"]) == (["greeting Ada"], 1)
    shown = cli("status", "greet", "first").stdout
    assert "completed" in shown
    assert "hello Ada" in shown


def test_a_failed_job_is_told_by_the_exit_code_and_can_be_retried(
    worker: subprocess.Popen[str], cli: Cli, documents: Documents
) -> None:
    added = cli("add", "greet", "-d", '{"name": "nobody"}', "--id", "doomed", "--watch")
    assert added.exit_code == 1
    assert "there is nobody to greet" in added.stderr
    (listed,) = documents("list", "greet", "--state", "failed")
    assert listed["id"] == "doomed"
    assert cli("retry", "greet", "doomed").exit_code == 0
    assert cli("watch", "greet", "doomed").exit_code == 1
    assert cli("retry", "greet", "missing").exit_code == 3
    (stats,) = documents("stats", "greet")
    assert (stats["jobType"], stats["failed"], stats["total"]) == ("greet", 1, 1)
    (cleaned,) = documents("clean", "greet", "--grace", "0s")
    assert cleaned["ids"] == ["doomed"]


def test_an_active_job_is_cancelled(worker: subprocess.Popen[str], cli: Cli, documents: Documents) -> None:
    cli("add", "linger", "-d", "{}", "--id", "long")
    watching = cli("watch", "linger", "long", "--timeout", "1ms")
    assert watching.exit_code == 7
    assert "still" in watching.stderr
    (done,) = documents("cancel", "linger", "long", "--reason", "superseded")
    assert done["cancellation"] == "stopping"
    ended = cli("watch", "linger", "long")
    assert ended.exit_code == 1
    assert "superseded" in ended.stderr


def test_waiting_jobs_are_steered(cli: Cli, documents: Documents) -> None:
    (job,) = documents("add", "greet", "-d", '{"name": "Bob"}', "--delay", "1h", "--priority", "high")
    (status,) = documents("status", "greet", job["id"])
    assert (status["state"], status["delayMs"], status["priority"]) == ("delayed", 3_600_000, 1)
    assert cli("promote", "greet", job["id"]).exit_code == 0
    assert cli("promote", "greet", job["id"]).exit_code == 4
    assert cli("pause", "greet").exit_code == 0
    assert documents("stats", "greet")[0]["paused"] is True
    assert cli("resume", "greet").exit_code == 0
    assert cli("remove", "greet", job["id"]).exit_code == 0
    assert cli("status", "greet", job["id"]).exit_code == 3


def test_the_same_id_twice_is_one_job(cli: Cli, documents: Documents) -> None:
    for _ in range(2):
        assert cli("add", "greet", "-d", '{"name": "Eve"}', "--id", "once").exit_code == 0
    assert documents("stats", "greet")[0]["waiting"] == 1


def test_schedules_come_and_go(cli: Cli, documents: Documents) -> None:
    arguments = ("schedule", "add", "greet", "nightly", "-d", '{"name": "owl"}')
    assert cli(*arguments, "--cron", "0 3 * * *", "--time-zone", "Europe/Berlin").exit_code == 0
    (one,) = documents("schedule", "list", "greet")
    assert (one["id"], one["cron"], one["timeZone"]) == ("nightly", "0 3 * * *", "Europe/Berlin")
    assert cli(*arguments).exit_code == 2
    assert cli(*arguments, "--every", "1h", "--cron", "0 3 * * *").exit_code == 2
    assert cli("schedule", "remove", "greet", "nightly").exit_code == 0
    assert cli("schedule", "remove", "greet", "nightly").exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("add", "greet", "-d", '{"nam": "x"}'), 2, "name"),
        (("add", "greet", "-d", "{nonsense"), 2, "expected JSON"),
        (("add", "greet", "-d", '{"name": "x"}', "--delay", "soon"), 2, "expected a duration"),
        (("add", "gret", "-d", "{}"), 3, "gret"),
        (("stats", "gret"), 3, "gret"),
        (("status", "greet", "42"), 3, "42"),
        (("logs", "greet", "42"), 3, "42"),
        (("cancel", "greet", "42"), 3, "42"),
        (("clean", "greet", "--grace", "tomorrow"), 2, "expected a duration"),
        (("worker", "--queues", "gret"), 3, "gret"),
        (("worker", "--queues", ","), 6, "names separated by commas"),
    ],
)
def test_a_mistake_is_one_clear_line(cli: Cli, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = cli(*arguments)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_an_error_is_json_for_programs(cli: Cli) -> None:
    result = cli("status", "greet", "42", "--json")
    assert json.loads(result.stderr)["error"] == "JobNotFound"
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("tests.acceptance.cli.farm", "package.module:attribute"),
        ("tests.no_such_module:corral", "no module named 'tests.no_such_module'"),
        ("tests.acceptance.cli.farm:nothing", "no attribute 'nothing'"),
        ("tests.acceptance.cli.farm:Greeting", "expected a corral.Corral"),
    ],
)
def test_a_wrong_app_is_told(cli: Cli, path: str, said: str) -> None:
    result = cli("--app", path, "stats", app_too=False)
    assert result.exit_code == 6
    assert said in result.stderr


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("redis://127.0.0.1:1", 5, "127.0.0.1:1"),
        ("http://127.0.0.1:1", 6, "rediss://"),
        ("redis://", 6, "no host"),
        ("", 6, "remove it for the embedded server"),
        ("redis://:s3cret@127.0.0.1:1", 5, "connection refused"),
    ],
)
def test_redis_out_of_reach_is_one_clear_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, url: str, code: int, said: str
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    result = cli("stats", app_too=False)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CORRAL_CONCURRENCY", "many", "got 'many'"),
        ("CORRAL_COMMIT_TRAILERS", "Reviewed-By: Ada", "expected JSON"),
        ("CORRAL_SANDBOX", "jail", "'bubblewrap'"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = cli("stats", app_too=False)
    assert result.exit_code == 6, result.output
    assert f"{variable}: " in result.stderr
    assert said in result.stderr


def test_a_worker_finishes_its_jobs_and_ends(environment: dict[str, str], cli: Cli, documents: Documents) -> None:
    process = start_worker(environment, "--queues", "greet,linger", "--concurrency", "2")
    cli("add", "linger", "-d", "{}", "--id", "long")
    assert cli("logs", "linger", "long").exit_code == 0
    (found,) = documents("workers", "linger")
    assert found["jobType"] == "linger"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["event"] == "stopped"
    # Its time was up: the job was handed back, not lost.
    assert documents("stats", "linger")[0]["waiting"] == 1


def test_a_job_s_words_can_t_steer_the_terminal(worker: subprocess.Popen[str], cli: Cli, documents: Documents) -> None:
    hostile = "Ada\x1b]0;owned\x07\x1b[2J\u202e[/red]"
    added = cli("add", "greet", "-d", json.dumps({"name": hostile}), "--id", "hostile", "--watch")

    assert added.exit_code == 0, added.output
    commands = (("status", "greet", "hostile"), ("logs", "greet", "hostile"), ("list", "greet"))
    shown = [cli(*command) for command in commands]
    for output in (added.stdout, added.stderr, *(one.stdout for one in shown)):
        assert not set("\x1b\x07\u202e") & set(output)
    assert "\\u001b]0;owned" in shown[1].stdout
    (logs,) = documents("logs", "greet", "hostile")
    assert logs["lines"] == [f"greeting {hostile}"], "programs get it as it is"
