from __future__ import annotations

import json
from pathlib import Path

import pytest

from corral.errors import Unrecoverable
from corral.jobs.test_execution.runners import ReportFormat, check_files, plan_run, runner_of


@pytest.mark.parametrize(
    ("command", "runner"),
    [
        ("pytest", "pytest"), ("python -m pytest -x", "pytest"), ("FOO=1 python3.12 -m pytest", "pytest"),
        ("uv run pytest tests", "pytest"), ("cd app && pytest", "pytest"), (".venv/bin/pytest", "pytest"),
        ("python3 -m unittest", "unittest"), ("python -m unittest discover -s tests", "unittest"),
        ("coverage run -m unittest", "unittest"), ("unittest", None),
        ("npx jest --ci", "jest"), ("yarn vitest run", "vitest"), ("mocha 'test/**/*.js'", "mocha"),
        ("node_modules/.bin/jest", "jest"), ("cross-env CI=1 jest", "jest"),
        ("node --test", "node"), ("node --import tsx --test test/", "node"), ("node server.js", None),
        ("go test ./...", "go"), ("go build", None), ("cargo test", "cargo"), ("cargo nextest run", "nextest"),
        ("cargo build", None), ("make test", None), ("pytest; echo done", None), ("pytest | tee log", None),
        ("echo pytest", None), ("", None), ("'unbalanced", None),
    ],
)  # fmt: skip
def test_which_runner(command: str, runner: str | None) -> None:
    assert runner_of(command) == runner


def plan(command: str, tmp_path: Path, *files: str) -> str:
    return plan_run(command, worktree=tmp_path, files=files).command


def test_python_runners_are_told_by_environment(tmp_path: Path) -> None:
    made = plan_run("make test", worktree=tmp_path, env={"PYTHONPATH": "src", "PYTEST_ADDOPTS": "-x"})
    assert made.command == "make test"
    assert made.env["PYTHONPATH"] == "/corral/reporters:src"
    assert made.env["PYTEST_ADDOPTS"].startswith("-x -p corral_pytest")
    assert made.format is ReportFormat.UNKNOWN


def test_unittest_is_replaced_where_it_stands(tmp_path: Path) -> None:
    assert plan("cd a && python3 -m unittest -v", tmp_path) == "cd a && python3 -m corral_unittest -v"


def test_jest(tmp_path: Path) -> None:
    command = plan("npx jest --ci", tmp_path, "src/a b.test.ts", "-x.js")
    assert command.startswith("npx jest --ci --json --outputFile=/corral/report/jest.json")
    assert command.endswith("--runTestsByPath './src/a b.test.ts' ./-x.js")
    assert plan("jest --config jest.config.js src/b.test.ts -- c", tmp_path, "a.ts").startswith(
        "jest --config jest.config.js --json"
    )
    assert plan("jest -- src/b", tmp_path).endswith("--passWithNoTests -- src/b")


def test_vitest(tmp_path: Path) -> None:
    command = plan("vitest run src/b --config vitest.config.ts", tmp_path, "src/a.test.ts")
    assert command.startswith("vitest run --config vitest.config.ts --reporter=default --reporter=json")
    assert command.endswith(" src/a.test.ts")


def test_mocha_and_node_run_the_asked_files_in_place_of_their_own(tmp_path: Path) -> None:
    assert plan("mocha --require ./setup.js 'test/**/*.js' --bail", tmp_path, "test/a.js").startswith(
        "mocha --require ./setup.js --bail"
    )
    command = plan("node --test test/", tmp_path, "test/a.test.js")
    assert "test/ " not in command
    assert command.endswith(" ./test/a.test.js")
    ours = "--test --test-reporter=/corral/reporters/corral_node.mjs --test-reporter-destination=stdout"
    assert command.startswith(f"node {ours} --test-reporter=spec --test-reporter-destination=stdout")
    # Each reporter has a destination, and a project's own keep theirs.
    one = plan("node --test --test-reporter=dot", tmp_path)
    assert one == f"node {ours} --test-reporter-destination=stdout --test-reporter=dot"
    two = "--test-reporter=dot --test-reporter-destination=out"
    assert plan(f"node --test {two}", tmp_path) == f"node {ours} {two}"


def test_go(tmp_path: Path) -> None:
    assert plan("go test -race ./...", tmp_path) == "go test -json -race ./..."
    assert plan("cd test && go test", tmp_path) == "cd test && go test -json"
    assert plan("go test ./...", tmp_path, "pkg/a/a_test.go").split() == ["go", "test", "-json", "./pkg/a"]
    (tmp_path / "a_test.go").write_text(
        "package a\nfunc TestB(t *testing.T) {}\nfunc TestC(t *testing.T) {}\nfunc x() {}"
    )
    assert plan("go test -v ./...", tmp_path, "a_test.go") == "go test -json -v  -run '^(TestB|TestC)$' ./"
    assert "TestB" not in plan("go test -run X ./...", tmp_path, "a_test.go")


def test_go_compiles_the_same_for_commands_that_want_the_same_objects(tmp_path: Path) -> None:
    def warm_up(command: str) -> str:
        return plan_run(command, worktree=tmp_path).warm_up

    assert warm_up("go test ./...") == warm_up("go test -v -count=1 ./a") == "go test -run '^$' ./... >/dev/null 2>&1"
    assert warm_up("cd a && go test -race") == "cd a && go test -run '^$' -race ./... >/dev/null 2>&1"
    assert warm_up("pytest") == ""


def test_cargo(tmp_path: Path) -> None:
    command = plan("cargo test --all -- --nocapture", tmp_path, "tests/api.rs")
    assert command == (
        "( cargo test --all --test api --message-format=json --no-run ) && ( export RUSTC_BOOTSTRAP=1; "
        "cargo test --all --test api --no-fail-fast -- -Z unstable-options --format json --report-time --nocapture )"
    )
    assert not plan_run("cargo test", worktree=tmp_path, files=["src/lib.rs"]).limited


def package(tmp_path: Path, **scripts: str) -> None:
    (tmp_path / "package.json").write_text(json.dumps({"scripts": scripts}))


def test_a_script_with_a_known_runner_is_put_in_its_place(tmp_path: Path) -> None:
    package(tmp_path, test="NODE_ENV=test jest --coverage")
    made = plan_run("npm test -- --bail", worktree=tmp_path)
    assert made.runner == "jest"
    assert "/workspace/./node_modules/.bin" in made.command or "/workspace/node_modules/.bin" in made.command
    assert "NODE_ENV=test jest --coverage --bail --json" in made.command


def test_a_scripts_own_files_are_replaced(tmp_path: Path) -> None:
    package(tmp_path, test="node --test test/*.js")
    command = plan("npm test", tmp_path, "test/b.js")
    assert command.startswith('PATH="/workspace/node_modules/.bin:$PATH"; export PATH; node --test ')
    assert command.endswith("--test-reporter-destination=stdout ./test/b.js")


@pytest.mark.parametrize(
    "scripts", [{"test": "jest", "pretest": "build"}, {"test": "./run.sh"}, {"other": "jest"}, {"test": "jest; lint"}]
)
def test_other_scripts_are_left_alone(tmp_path: Path, scripts: dict[str, str]) -> None:
    package(tmp_path, **scripts)
    made = plan_run("npm test", worktree=tmp_path)
    assert (made.command, made.runner) == ("npm test", "command")


def test_hostile_package_files_are_left_alone(tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere.json"
    secret.write_text(json.dumps({"scripts": {"test": "jest"}}))
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "package.json").symlink_to(secret)
    assert plan("npm test", tree) == "npm test"
    (tree / "package.json").unlink()
    for text in ("[]", '{"scripts": 3}', '{"scripts": {"test": ["jest"]}}', "{" * 10_000):
        (tree / "package.json").write_text(text)
        assert plan("npm test", tree) == "npm test"


def test_output_that_goes_elsewhere_cannot_be_changed(tmp_path: Path) -> None:
    assert plan("jest > log", tmp_path) == "jest > log"


@pytest.mark.parametrize("file", ["/etc/passwd", "../x", "a/../../x", "", "."])
def test_files_outside_are_refused(file: str) -> None:
    with pytest.raises(Unrecoverable) as caught:
        check_files([file])
    assert caught.value.reason == "files_invalid"


def test_files_are_normalized() -> None:
    assert check_files(["./a/b.py", "a/b.py", "c\nd.py"]) == ("a/b.py", "c\nd.py")
