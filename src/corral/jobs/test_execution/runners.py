"""Known test runners: which one a command starts, how it is made to report, and how it is limited to some files.

Only the command's text and its environment are changed, never the project. pytest needs no more than environment
variables, so it reports however it is started (``make test``, ``tox`` without isolation, a script); the others must be
seen in the command, or in the ``package.json`` script that the command runs.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath

from corral.adapters.sandbox.port import SUPPORT, WORKSPACE
from corral.errors import Unrecoverable
from corral.jobs.test_execution.golang import tests_of
from corral.jobs.test_execution.hostile_files import UnsafeFileError, read_bounded

REPORTERS = SUPPORT / "reporters"
"""Where the files of ``reporters`` are inside."""
REPORT = SUPPORT / "report"
"""The folder inside that reports are written to."""
EVENTS_FILE = "events.jsonl"
SELECT = SUPPORT / "select.json"
_MANIFEST_BYTES = 1_000_000


class ReportFormat(StrEnum):
    """What a runner writes."""

    EVENTS = "events"
    """Our own reporters' lines; the only format that is read while the tests run."""
    JUNIT = "junit"
    JEST = "jest"
    """Jest's ``--json``, which Vitest's json reporter writes too."""
    GO = "go"
    """``go test -json`` on the output."""
    CARGO = "cargo"
    """Cargo's ``--message-format=json`` and, of Rust's test harness, ``--format json``, on the output."""
    UNKNOWN = "unknown"
    """Nothing was asked for; JUnit files and TAP are looked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a test command is really run."""

    runner: str
    #: For ``sh -c``.
    command: str
    env: Mapping[str, str] = field(default_factory=dict)
    format: ReportFormat = ReportFormat.UNKNOWN
    #: The report's file in the report folder, or in the worktree when ``report_in_worktree``.
    report: str | None = None
    report_in_worktree: bool = False
    #: Whether it runs only the files that were asked for.
    limited: bool = False
    #: Fills the toolchain's own cache, which is kept with what the set-up command installed; "": none wants filling.
    warm_up: str = ""


_WRAPPERS = frozenset({
    "npx", "bunx", "pnpx", "exec", "dlx", "env", "time", "nice", "cross-env", "command", "poetry", "uv", "pipenv",
    "hatch", "rye", "pdm", "run", "yarn", "pnpm", "npm", "coverage", "-m", "--", "-y", "--yes", "--no-install",
})  # fmt: skip
_PYTHON = re.compile(r"^(?:.*/)?python(?:\d(?:\.\d+)?)?$")
_ASSIGNMENT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*=")
_BETWEEN_COMMANDS = re.compile(r"&&|\|\||[;\n|&]")
_REDIRECTED = re.compile(r"[<>]")
_NAMED = {
    "pytest": "pytest", "py.test": "pytest", "jest": "jest", "vitest": "vitest", "mocha": "mocha",
    "unittest": "unittest",
}  # fmt: skip


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def runner_of(command: str) -> str | None:
    """Name the runner that the last part of a shell command starts; None when it isn't known."""
    words = _words(_BETWEEN_COMMANDS.split(command)[-1])
    for position, word in enumerate(words):
        if _ASSIGNMENT.match(word) or word in _WRAPPERS:
            continue
        after = words[position + 1 :]
        if _PYTHON.match(word):
            if after[:1] == ["-m"] and after[1:2] and after[1] in _NAMED:
                return _NAMED[after[1]]
        elif not word.startswith("-"):
            module = words[position - 1 : position] == ["-m"]
            return _program(PurePosixPath(word).name, after, is_module=module)
    return None


def _program(name: str, arguments: Sequence[str], *, is_module: bool) -> str | None:
    """Name the runner that a program is, given its arguments."""
    if name == "node" and "--test" in arguments:
        return "node"
    if name == "go" and arguments[:1] == ["test"]:
        return "go"
    if name == "cargo":
        return "nextest" if arguments[:2] == ["nextest", "run"] else "cargo" if arguments[:1] == ["test"] else None
    return _NAMED.get(name) if is_module or name != "unittest" else None


def check_files(files: Sequence[str]) -> tuple[str, ...]:
    """Check and normalize the paths that limit a run.

    Raises:
        Unrecoverable: One leads out of the repository; reason ``files_invalid``.
    """
    checked = []
    for file in files:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise Unrecoverable(f"expected paths inside the repository, got {file!r} in files", reason="files_invalid")
        checked.append(str(path))
    return tuple(dict.fromkeys(checked))


def _quoted(files: Sequence[str]) -> str:
    # "./" keeps a name that begins with a dash from being read as an option.
    return "".join(" " + shlex.quote(f"./{file}") for file in files)


def plan_run(command: str, *, worktree: Path, files: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Plan:
    """Decide how to run a test command.

    Args:
        command: As the project's people type it.
        worktree: Its files, for ``package.json``.
        files: Checked paths that the run is limited to.
        env: The run's variables so far.
    """
    given = dict(env or {})
    expanded = _expand_script(command, worktree)
    runner = runner_of(expanded)
    if _REDIRECTED.search(_BETWEEN_COMMANDS.split(expanded)[-1]) and runner not in ("pytest", "unittest"):
        runner = None
    base = Plan(runner="command", command=command, env=_python_environment(given))
    planners: dict[str, _Planner] = {**_PLANNERS, "go": partial(_plan_go, worktree=worktree)}
    make = planners.get(runner or "")
    return base if make is None else make(replace(base, runner=str(runner), command=expanded), files)


def _python_environment(given: Mapping[str, str]) -> dict[str, str]:
    paths = [str(REPORTERS), *filter(None, [given.get("PYTHONPATH")])]
    options = [given.get("PYTEST_ADDOPTS", ""), "-p", "corral_pytest", "-o", "cache_dir=/tmp/pytest-cache"]
    return {
        **given,
        "PYTHONPATH": ":".join(paths),
        "PYTHONDONTWRITEBYTECODE": given.get("PYTHONDONTWRITEBYTECODE", "1"),
        "PYTHONUNBUFFERED": given.get("PYTHONUNBUFFERED", "1"),
        "PYTEST_ADDOPTS": " ".join(filter(None, options)),
        "CORRAL_REPORT": str(REPORT / EVENTS_FILE),
        "CORRAL_SELECT": str(SELECT),
        "CORRAL_WORKSPACE": str(WORKSPACE),
    }


def _plan_pytest(base: Plan, files: Sequence[str]) -> Plan:
    return replace(base, format=ReportFormat.EVENTS, limited=bool(files))


def _plan_unittest(base: Plan, files: Sequence[str]) -> Plan:
    command = re.sub(r"(?<!\S)-m\s+unittest(?!\S)", "-m corral_unittest", base.command)
    return replace(base, command=command, format=ReportFormat.EVENTS, limited=bool(files))


def _with_options(command: str, options: str, *, files: str = "") -> str:
    """Add options to a command, in front of the words after a lone ``--``, which are no options."""
    before, separator, after = command.partition(" -- ")
    return f"{before} {options}{files}{separator if not files else ''}{after if not files else ''}"


def _plan_jest(base: Plan, files: Sequence[str]) -> Plan:
    # Without --passWithNoTests, Jest writes no report when it finds none.
    options = f"--json --outputFile={REPORT}/jest.json --testLocationInResults --passWithNoTests"
    command, chosen = base.command, ""
    if files:
        command, chosen = _without_files(command, after="jest"), f" --runTestsByPath{_quoted(files)}"
    command = _with_options(command, options, files=chosen)
    return replace(base, command=command, format=ReportFormat.JEST, report="jest.json", limited=bool(files))


def _plan_vitest(base: Plan, files: Sequence[str]) -> Plan:
    options = f"--reporter=default --reporter=json --outputFile.json={REPORT}/vitest.json"
    command = _without_files(base.command, after="vitest") if files else base.command
    # Vitest takes parts of paths as filters; without "./", which no file's path holds.
    chosen = "".join(" " + shlex.quote(file) for file in files if not file.startswith("-"))
    command = _with_options(command, options, files=chosen)
    return replace(base, command=command, format=ReportFormat.JEST, report="vitest.json", limited=bool(files))


def _plan_mocha(base: Plan, files: Sequence[str]) -> Plan:
    reporter = f"{REPORTERS}/corral_mocha.cjs"
    command, chosen = base.command, ""
    if files:
        # For Mocha's own search for files, which must find some; the reporter leaves out what others it finds.
        command, chosen = _without_files(command, after="mocha"), _quoted(files)
    command = _with_options(command, f"--require {reporter} --reporter {reporter}", files=chosen)
    return replace(base, command=command, format=ReportFormat.EVENTS, limited=bool(files))


def _plan_node(base: Plan, files: Sequence[str]) -> Plan:
    # Reporters and their destinations are paired in the order in which they stand.
    ours = f"--test --test-reporter={REPORTERS}/corral_node.mjs --test-reporter-destination=stdout"
    if "--test-reporter-destination" not in base.command:
        theirs = "" if "--test-reporter" in base.command else " --test-reporter=spec"
        ours += f"{theirs} --test-reporter-destination=stdout"
    command = re.sub(r"(?<!\S)--test(?!\S)", ours, base.command, count=1)
    if files:
        kept = _without_files(base.command, after="node")
        command = re.sub(r"(?<!\S)--test(?!\S)", ours, kept, count=1) + _quoted(files)
    return replace(base, command=command, format=ReportFormat.EVENTS, limited=bool(files))


#: Go's flags that change what is compiled (``go help build``), with their value.
_GO_BUILD_FLAG = re.compile(r"^--?(?:race|msan|asan|cover|(?:tags|gcflags|ldflags|mod|buildmode|covermode)=.*)$")
_GO_TEST = re.compile(r"((?<!\S)(?:\S*/)?go\s+test)(?!\S)")


def _plan_go(base: Plan, files: Sequence[str], *, worktree: Path) -> Plan:
    command = _GO_TEST.sub(r"\1 -json", base.command, count=1)
    if files:
        folders = sorted({str(PurePosixPath(file).parent) for file in files})
        command = re.sub(r"(?<!\S)\.(?:/\S*)?(?!\S)", "", command)
        tests = tests_of(worktree, files)
        if tests and "-run" not in command:
            command += f" -run '^({'|'.join(tests)})$'"
        command += _quoted(["" if folder == "." else folder for folder in folders])
    return replace(
        base, command=command, format=ReportFormat.GO, limited=bool(files), warm_up=_go_warm_up(base.command)
    )


def _go_warm_up(command: str) -> str:
    """Compile everything, the standard library too, which takes Go a minute, and run no test.

    The same for all commands that want the same objects, as each of them is kept by itself.
    """
    match = _GO_TEST.search(command)
    if match is None:
        return ""
    build = [word for word in _words(command[match.end() :]) if _GO_BUILD_FLAG.match(word)]
    flags = "".join(f" {shlex.quote(word)}" for word in build)
    return f"{command[: match.start()]}{match[1]} -run '^$'{flags} ./... >/dev/null 2>&1"


def _integration_tests(files: Sequence[str]) -> list[str]:
    return [PurePosixPath(file).stem for file in files if re.match(r"^(.*/)?tests/[^/]+\.rs$", file)]


def _limited_to_targets(command: str, files: Sequence[str]) -> tuple[str, bool]:
    """Limit a Cargo command to some files, when each is a test target of its own."""
    targets = _integration_tests(files)
    limited = bool(files) and len(targets) == len(files)
    return command + "".join(f" --test {shlex.quote(name)}" for name in targets if limited), limited


def _plan_cargo(base: Plan, files: Sequence[str]) -> Plan:
    command, separator, harness = base.command.partition(" -- ")
    command, limited = _limited_to_targets(command, files)
    build = command if "--message-format" in command else f"{command} --message-format=json"
    run = command if "--no-fail-fast" in command else f"{command} --no-fail-fast"
    options = f"-Z unstable-options --format json --report-time{' ' + harness if separator else ''}"
    return replace(
        base,
        # The harness says JSON only to those who set the variable; compiling happens before, without it, since with it
        # crates may choose code that needs a nightly compiler.
        command=f"( {build} --no-run ) && ( export RUSTC_BOOTSTRAP=1; {run} -- {options} )",
        format=ReportFormat.CARGO,
        limited=limited,
    )


def _plan_nextest(base: Plan, files: Sequence[str]) -> Plan:
    command = f"{base.command} --tool-config-file corral:{REPORTERS}/nextest.toml --no-fail-fast"
    command, limited = _limited_to_targets(command, files)
    return replace(
        base,
        command=command,
        format=ReportFormat.JUNIT,
        report="target/nextest/default/corral.xml",
        report_in_worktree=True,
        limited=limited,
    )


#: Options of Jest, Vitest, Mocha and Node whose value is the next word.
_WITH_VALUE = frozenset({
    "-c", "--project", "--projects", "--root", "--rootDir", "--dir", "--reporters", "--setupFilesAfterEnv",
    "--coverageDirectory", "--testPathIgnorePatterns", "--globalSetup", "--env", "--environment",
    "-r", "--require", "--import", "--loader", "--experimental-loader", "--config", "--package", "--opts", "--file",
    "-u", "--ui", "-t", "--timeout", "-g", "--grep", "-f", "--fgrep", "--env-file", "-C", "--conditions",
})  # fmt: skip


def _without_files(command: str, *, after: str) -> str:
    """Drop the words that name test files or patterns, so that those asked for replace them instead of joining them."""
    starts = [match.end() for match in re.finditer(rf"(?<!\S)(?:\S*/)?{after}(?!\S)", command)]
    if not starts:
        return command
    kept, previous = [], ""
    for word in command[starts[-1] :].split():
        if word.startswith("-") or previous in _WITH_VALUE or not re.search(r"[./*]", word):
            kept.append(word)
        previous = word
    return command[: starts[-1]] + "".join(f" {word}" for word in kept)


_Planner = Callable[[Plan, Sequence[str]], Plan]
_PLANNERS: dict[str, _Planner] = {
    "pytest": _plan_pytest,
    "unittest": _plan_unittest,
    "jest": _plan_jest,
    "vitest": _plan_vitest,
    "mocha": _plan_mocha,
    "node": _plan_node,
    "cargo": _plan_cargo,
    "nextest": _plan_nextest,
}

_SCRIPT = re.compile(
    r"^(?P<before>(?:cd\s+(?P<folder>[\w./-]+)\s*&&\s*)?)(?P<assignments>(?:[A-Za-z_]\w*=[\w./:-]*\s+)*)"
    r"(?P<manager>npm|yarn|pnpm)\s+(?:run\s+|run-script\s+)?(?P<script>[\w:.-]+)(?P<arguments>\s[^;&|<>`$]*)?$"
)


def _expand_script(command: str, worktree: Path) -> str:
    """Put a ``package.json`` script in the place of ``npm test``, when its runner is known.

    Arguments and environment then reach the runner itself, not a package manager that may or may not pass them on.
    """
    match = _SCRIPT.match(command.strip())
    if match is None:
        return command
    name = "test" if match["script"] in ("t", "tst") else match["script"]
    folder = PurePosixPath(match["folder"] or ".")
    try:
        content = json.loads(read_bounded(worktree, str(folder / "package.json"), most_bytes=_MANIFEST_BYTES))
        scripts = content["scripts"]
        text = scripts[name]
    except (UnsafeFileError, OSError, ValueError, KeyError, TypeError):
        return command
    hooked = f"pre{name}" in scripts or f"post{name}" in scripts
    if not isinstance(text, str) or hooked or runner_of(text) is None:
        return command
    arguments = re.sub(r"^\s*--(?=\s|$)", "", match["arguments"] or "")
    path = f'PATH="{WORKSPACE / folder}/node_modules/.bin:$PATH"; export PATH; '
    return f"{match['before']}{path}{match['assignments']}{text}{arguments}"
