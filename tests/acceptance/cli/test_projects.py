"""Projects, tokens and the doctor by the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.cli.conftest import Cli

from corral.adapters.index.factory import make_index_store
from corral.adapters.index.port import IndexName
from corral.interfaces.cli.doctor.finding import Verdict
from corral.interfaces.cli.parts import judge_token
from corral.settings import Settings

Documents = Callable[..., list[Any]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for arguments in (
        ("init", "--quiet", "--initial-branch=trunk", str(folder)),
        ("-C", str(folder), "commit", "--quiet", "--allow-empty", "-m", "Begin"),
    ):
        identity = ("-c", "user.name=Sam", "-c", "user.email=sam@example.invalid")
        subprocess.run(["git", *identity, *arguments], check=True)
    return folder


def test_a_project_is_registered_with_its_own_branch(cli: Cli, documents: Documents, repository: Path) -> None:
    project = f"p-{repository.parent.name}"
    added = cli("project", "add", project, str(repository), "--test-command", "make test")
    assert added.exit_code == 0, added.output
    (shown,) = documents("project", "show", project)
    assert (shown["repository"], shown["default_branch"], shown["forge"]) == (str(repository), "trunk", "local")
    assert shown["test_command"] == "make test"
    assert project in [one["id"] for one in documents("project", "list")]

    again = cli("project", "add", project, str(repository))
    assert again.exit_code == 6
    assert "registered already" in again.stderr
    assert cli("project", "add", project, str(repository), "--replace").exit_code == 0
    assert cli("project", "remove", project).exit_code == 0
    assert cli("project", "show", project).exit_code == 3


def test_what_is_not_named_stays_when_a_project_is_replaced(cli: Cli, documents: Documents, repository: Path) -> None:
    subprocess.run(["git", "-C", str(repository), "branch", "--quiet", "side"], check=True)
    assert cli("project", "add", "base", str(repository)).exit_code == 0
    first = ("--branch", "side", "--test-command", "make test", "--setup-command", "make", "--submodule", "base")
    assert cli("project", "add", "kept", str(repository), *first).exit_code == 0
    (before,) = documents("project", "show", "kept")

    assert cli("project", "add", "kept", str(repository), "--replace", "--test-command", "true").exit_code == 0
    (after,) = documents("project", "show", "kept")
    assert after == {**before, "test_command": "true"}
    assert after["default_branch"] == "side"

    emptied = cli("project", "add", "kept", str(repository), "--replace", "--setup-command", "", "--submodule", "")
    assert emptied.exit_code == 0, emptied.output
    subprocess.run(["git", "-C", str(repository), "branch", "--quiet", "-D", "side"], check=True)
    assert cli("project", "add", "kept", str(repository), "--replace").exit_code == 0
    (emptier,) = documents("project", "show", "kept")
    assert emptier == {**after, "setup_command": None, "submodules": [], "default_branch": "trunk"}


def test_submodules_are_named_by_projects_that_are_registered(cli: Cli, documents: Documents, repository: Path) -> None:
    for project in ("lib", "ui"):
        assert cli("project", "add", project, str(repository)).exit_code == 0
    added = cli("project", "add", "shop", str(repository), "--submodule", "lib", "--submodule", "ui")
    assert added.exit_code == 0, added.output
    (shown,) = documents("project", "show", "shop")
    assert shown["submodules"] == ["lib", "ui"]

    unknown = cli("project", "add", "other", str(repository), "--submodule", "nowhere")
    assert unknown.exit_code == 3
    assert "nowhere" in unknown.stderr
    itself = cli("project", "add", "other", str(repository), "--submodule", "other")
    assert itself.exit_code == 2
    assert "submodule of itself" in itself.stderr
    assert cli("project", "show", "other").exit_code == 3


def test_another_repository_under_a_projects_id_begins_without_an_index(cli: Cli, repository: Path) -> None:
    project = f"i-{repository.parent.name}"
    store = make_index_store(Settings())

    def index() -> None:
        with store.writer(IndexName(project), identity="one", embedder="none", dimension=4) as writer:
            writer.publish(commit="c")

    assert cli("project", "add", project, str(repository)).exit_code == 0
    index()
    assert cli("project", "add", project, str(repository), "--replace", "--test-command", "true").exit_code == 0
    assert store.branches(project) == [""]
    other = repository.rename(repository.with_name("other"))
    refused = cli("project", "add", project, str(other), "--replace", "--submodule", "nowhere")
    assert (refused.exit_code, store.branches(project)) == (3, [""]), "what is refused leaves the index as it was"
    assert cli("project", "add", project, str(other), "--replace").exit_code == 0
    assert store.branches(project) == []
    index()
    assert cli("project", "remove", project).exit_code == 0
    assert store.branches(project) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("project", "add", "x", "{folder}"), "expected a git repository"),
        (("project", "add", "x", "/no/such/folder"), "expected a git repository"),
        (("project", "add", "x", "{repository}", "--branch", "gone"), "expected one of the branches trunk"),
        (("project", "add", "bad id", "{repository}"), "id"),
        (
            ("project", "add", "x", "https://ada:s3cret@127.0.0.1:1/a/b", "--forge", "gitea"),
            "holds a user name or a token",
        ),
    ],
)
def test_what_is_no_repository_is_refused(
    cli: Cli, tmp_path: Path, repository: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "folder").mkdir()
    given = [part.format(folder=tmp_path / "folder", repository=repository) for part in arguments]
    result = cli(*given)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "s3cret" not in result.output
    assert cli("project", "show", given[2].replace(" ", "-")).exit_code == 3, "nothing half-done stays behind"


@pytest.mark.parametrize(
    "command", [("index", "nowhere"), ("search", "nowhere", "x"), ("pipeline", "start", "nowhere", "x")]
)
def test_an_unknown_project_is_told(cli: Cli, command: tuple[str, ...]) -> None:
    result = cli(*command)
    assert result.exit_code == 3
    assert "nowhere" in result.stderr


def test_a_pipeline_is_started_shown_and_cancelled(cli: Cli, documents: Documents, repository: Path) -> None:
    project = f"q-{repository.parent.name}"
    cli("project", "add", project, str(repository))
    (job,) = documents("pipeline", "start", project, "Add a thing", "--task", "t1", app_too=False)
    (status,) = documents("pipeline", "status", job["id"], app_too=False)
    assert (status["state"], status["data"]["prompt"]) == ("prioritized", "Add a thing")
    (done,) = documents("pipeline", "cancel", job["id"], app_too=False)
    assert done["cancellation"] == "removed"
    cli("project", "remove", project)


def test_tokens_are_made_listed_and_revoked(cli: Cli, documents: Documents) -> None:
    (made,) = documents("token", "create", "ada", "--scope", "read", "--scope", "submit", "--lifetime", "1d")
    assert made["token"].startswith("corral_")
    (listed,) = [one for one in documents("token", "list") if one["id"] == made["id"]]
    assert (listed["userId"], sorted(listed["scopes"])) == ("ada", ["read", "submit"])
    assert made["token"] not in json.dumps(listed)
    assert cli("token", "revoke", made["id"]).exit_code == 0
    assert cli("token", "revoke", made["id"]).exit_code == 3
    assert cli("token", "create", "ada", "--scope", "everything").exit_code == 2


def test_the_doctor_finds_what_is_stuck(cli: Cli, documents: Documents) -> None:
    cli("add", "greet", "-d", '{"name": "Ada"}')
    cli("pause", "linger")
    result = cli("doctor", "--json")
    findings = {document["check"]: document for document in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert findings["redis"]["verdict"] == "ok"
    assert findings["queue greet"]["mend"].startswith("corral worker --queues greet")
    assert findings["queue linger"]["mend"] == "corral resume linger"
    assert {"latency", "eviction", "persistence", "git", "sandbox", "model", "forge"} <= set(findings)
    shown = cli("doctor").stdout
    assert "mend: corral resume linger" in shown


def test_the_doctor_tries_the_embedder_that_is_set(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_EMBEDDER", "openai-compatible:nomic-embed-code")
    result = cli("doctor", "--json")
    findings = {document["check"]: document for document in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert findings["code search"]["verdict"] == "fault"
    assert "set CORRAL_EMBEDDER_BASE_URL" in findings["code search"]["detail"]


def test_the_doctor_tells_an_embedder_that_does_not_exist(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_EMBEDDER", "statik")
    result = cli("doctor", "--json")
    [finding] = map(json.loads, result.stdout.splitlines())
    assert (result.exit_code, finding["check"], finding["verdict"]) == (1, "settings", "fault")
    assert "CORRAL_EMBEDDER" in finding["detail"]
    assert "got 'statik'" in finding["detail"]


def test_the_doctor_tells_how_to_reach_redis(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://ada:hidden-word@127.0.0.1:1")
    result = cli("doctor", app_too=False)
    assert result.exit_code == 1
    assert "REDIS_URL" in result.stdout
    assert "127.0.0.1:1" in result.stdout
    assert "hidden-word" not in result.output


@pytest.mark.parametrize(
    ("status", "scopes", "verdict"),
    [
        (401, None, Verdict.FAULT),
        (200, None, Verdict.OK),
        (200, "repo, read:org", Verdict.OK),
        (200, "gist", Verdict.FAULT),
        (200, "", Verdict.FAULT),
    ],
)
def test_what_a_forge_token_may_do(status: int, scopes: str | None, verdict: Verdict) -> None:
    assert judge_token(status, scopes).verdict is verdict
