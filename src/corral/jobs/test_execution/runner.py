"""Runs a project's tests in the sandbox and says what happened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from importlib.resources import as_file
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Literal, Self

from corral.adapters.sandbox.factory import default_limits, make_sandbox
from corral.adapters.sandbox.orphans import RunRegistry
from corral.adapters.sandbox.port import (
    MIB,
    Mount,
    RunEnding,
    Sandbox,
    SandboxLimits,
    SandboxRequest,
)
from corral.errors import Unrecoverable
from corral.jobs.test_execution.artifacts import ArtifactStore
from corral.jobs.test_execution.dependencies import DependencyCache, Prepared
from corral.jobs.test_execution.golang import files_of_tests
from corral.jobs.test_execution.hostile_files import UnsafeFileError, read_bounded
from corral.jobs.test_execution.leavings import coverage_percent, find_artifacts, find_junit
from corral.jobs.test_execution.output import LogLines, OutputLog, beside
from corral.jobs.test_execution.parsing import (
    ParsedReport,
    UnreadableReportError,
    looks_like_tap,
    parse_jest,
    parse_junit,
    parse_tap,
)
from corral.jobs.test_execution.payload import TestLimits
from corral.jobs.test_execution.report import Artifact, CaseOutcome, TestReport
from corral.jobs.test_execution.runners import (
    EVENTS_FILE,
    REPORT,
    REPORTERS,
    SELECT,
    Plan,
    ReportFormat,
    check_files,
    plan_run,
)
from corral.jobs.test_execution.streams import CargoParser, EventParser, GoParser, OutputParser
from corral.jobs.test_execution.verdict import Run, ended, last_words, report_of, verdict_of
from corral.settings import Settings

_REPORT_BYTES = 32 * MIB
_EVENT_CHUNK_BYTES = 256 * 1024
_MOST_RERUNS = 5

Progress = Callable[[int, int | None], Awaitable[None]]
"""Told how many cases have ended, of how many; None where the runner doesn't say."""


class TestRunner:
    """Runs tests: set-up, command, report.

    One instance serves all jobs of a worker, several at once.
    """

    __test__ = False

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        data_dir: Path,
        default_limits: SandboxLimits = SandboxLimits(),  # noqa: B008 - frozen
        setup_env: Mapping[str, str] | None = None,
        image: str | None = None,
        dependency_cache_bytes: int = 4096 * MIB,
        artifacts: ArtifactStore | None = None,
    ) -> None:
        """Make a runner.

        Args:
            sandbox: Where everything runs.
            data_dir: Where scratch files and cached dependencies go.
            default_limits: What a run may use when it does not say.
            setup_env: Variables of the set-up phase (addresses of package registries).
            image: The image of the container sandboxes.
            dependency_cache_bytes: How much cached set-ups may take.
            artifacts: Keeps screenshots and reports; None keeps none.
        """
        self._sandbox = sandbox
        self._registry = RunRegistry(data_dir / "sandbox" / "reports")
        self._artifacts = artifacts
        self._dependencies = DependencyCache(data_dir / "dependencies", most_bytes=dependency_cache_bytes)
        self._limits = default_limits
        self._setup_env = dict(setup_env or {})
        self._image = image
        self._environment: dict[str, str] | None = None
        self._environment_lock = asyncio.Lock()

    @classmethod
    def from_settings(cls, settings: Settings, *, artifacts: ArtifactStore | None = None) -> Self:
        """Make the runner that the settings ask for; nothing is started.

        Args:
            settings: Say which sandbox, and its bounds.
            artifacts: Keeps screenshots and reports; None keeps none.

        Raises:
            ConfigurationError: A setting of the sandbox is wrong.
        """
        return cls(
            make_sandbox(settings),
            data_dir=settings.data_dir.absolute(),
            default_limits=default_limits(settings),
            setup_env=settings.sandbox_setup_env,
            image=settings.sandbox_image if settings.sandbox in ("docker", "podman") else None,
            dependency_cache_bytes=settings.dependency_cache_mb * MIB,
            artifacts=artifacts,
        )

    async def run(
        self,
        worktree: Path,
        *,
        command: str,
        commit: str,
        project_id: str,
        timeout: timedelta,
        files: Sequence[str] = (),
        setup_command: str | None = None,
        env: Mapping[str, str] | None = None,
        limits: TestLimits = TestLimits(),  # noqa: B008 - frozen
        network: Literal["none", "setup"] = "none",
        reruns: int = 0,
        on_output: LogLines | None = None,
        on_progress: Progress | None = None,
    ) -> TestReport:
        """Run the tests of ``worktree``.

        Args:
            worktree: A checkout of its own; the tests may write to it.
            command: The test command, for a shell at the root of the worktree.
            commit: What is checked out, for the report.
            project_id: Whose cached dependencies are used.
            timeout: Longest run, of each phase, of the whole process tree.
            files: Limit the run to these test files, where the runner is known.
            setup_command: Installs dependencies first, unless the cache has its result.
            env: Variables that both phases see.
            limits: Bounds of each phase; None takes the defaults.
            network: ``setup`` lets the set-up reach the allow-listed hosts. The tests have no network in any case.
            reruns: How often failed cases are run again, at most 5; those that then pass are ``flaky``.
            on_output: Gets the output in batches of lines.
            on_progress: Gets the number of ended cases.

        Returns:
            The report. Failed tests, and tests that a bound ended, are a report with ``passed`` false.

        Raises:
            Unrecoverable: The tests could not be run. Reasons: ``setup_failed``, ``command_not_found``,
                ``no_tests_collected``, ``tests_not_run`` (the runner ended before its first case), ``files_invalid``.
            SandboxUnavailable: There is no sandbox on this machine.
            SandboxFailed: The sandbox failed; a retry can help.
            asyncio.CancelledError: The caller was cancelled; nothing runs any more.
        """
        chosen = check_files(files)
        environment = await self.environment()
        request = SandboxRequest(
            command=(), worktree=worktree, timeout=timeout, env=dict(env or {}), limits=self._bounds(limits),
            image=self._image,
        )  # fmt: skip
        async with self._scratch() as scratch:
            log = OutputLog(on_output)
            chosen = await asyncio.to_thread(_present, worktree, chosen, log)
            prepared = await self._prepare(
                replace(request, network=network == "setup"), command=command, set_up=setup_command or "",
                project_id=project_id, environment=environment, scratch=scratch, log=log,
            )  # fmt: skip
            plan, request = _planned(command, request, prepared, chosen, log)
            began = time.time()
            with prepared.in_use():
                first = await self._execute(
                    plan, request, scratch / "1", files=chosen, log=log, on_progress=on_progress
                )
                passed = verdict_of(first)
                flaky = await self._rerun(first, request, scratch, files=chosen, reruns=min(reruns, _MOST_RERUNS))
            artifacts = await self._keep_artifacts(project_id, worktree, began)
            coverage = await asyncio.to_thread(coverage_percent, worktree, began)
        return report_of(
            first, passed=passed, command=command, commit=commit, environment=environment, prepared=prepared,
            flaky=flaky, artifacts=artifacts, coverage=coverage,
        )  # fmt: skip

    async def environment(self) -> dict[str, str]:
        """Say what another run must share to be comparable; found out once.

        Raises:
            SandboxUnavailable: There is no sandbox on this machine.
        """
        async with self._environment_lock:
            if self._environment is None:
                version = await self._sandbox.check()
                said = bytearray()
                async with self._scratch() as scratch:
                    script = (
                        'uname -sm; for p in python3 node go cargo; do echo "$p=$($p --version 2>&1 | head -n1)"; done'
                    )
                    await self._sandbox.run(
                        SandboxRequest(
                            command=("/bin/sh", "-c", script), worktree=scratch, timeout=timedelta(seconds=30),
                            image=self._image,
                        ),
                        said.extend,
                    )  # fmt: skip
                self._environment = _environment(said.decode(errors="replace"))
                self._environment["sandbox"] = f"{self._sandbox.name} {version}"
                if self._image:
                    self._environment["image"] = self._image
            return dict(self._environment)

    async def reap(self) -> None:
        """Remove what dead workers left: processes, cgroups, containers, scratch folders."""
        await self._sandbox.reap()
        await asyncio.to_thread(self._registry.reap)

    async def close(self) -> None:
        """Let go of the sandbox and of the scratch folder."""
        await self._sandbox.close()
        await asyncio.to_thread(self._registry.close)

    @contextlib.asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        record = await asyncio.to_thread(self._registry.open)
        try:
            yield record.folder
        finally:
            await asyncio.shield(asyncio.to_thread(record.remove))

    def _bounds(self, limits: TestLimits) -> SandboxLimits:
        chosen = self._limits
        if limits.memory_mb is not None:
            chosen = replace(chosen, memory_bytes=limits.memory_mb * MIB)
        if limits.processes is not None:
            chosen = replace(chosen, processes=limits.processes)
        if limits.cpu_seconds is not None:
            chosen = replace(chosen, cpu=timedelta(seconds=limits.cpu_seconds))
        if limits.file_size_mb is not None:
            chosen = replace(chosen, file_size_bytes=limits.file_size_mb * MIB)
        if limits.disk_mb is not None:
            chosen = replace(chosen, disk_bytes=limits.disk_mb * MIB)
        if limits.output_kb is not None:
            chosen = replace(chosen, output_bytes=limits.output_kb * 1024)
        return chosen

    async def _prepare(
        self, request: SandboxRequest, *, command: str, set_up: str, project_id: str,
        environment: Mapping[str, str], scratch: Path, log: OutputLog,
    ) -> Prepared:  # fmt: skip
        """Run the set-up command and fill the toolchain's cache, or take the kept result of both.

        Args:
            request: Where, with the variables and bounds of every phase, and with the network of this one.
            command: The test command, which says what its toolchain can have ready.
            set_up: The set-up command; ``""``: none.
            project_id: Whose result is kept.
            environment: What the result depends on besides.
            scratch: Room of this run.
            log: Gets the output.

        Raises:
            Unrecoverable: The set-up failed; reason ``setup_failed``.
        """
        # Planned before the set-up, which has yet to install what the command needs, and anew after it.
        warm_up = plan_run(command, worktree=request.worktree, env=request.env).warm_up
        script = "\n".join(filter(None, [set_up and f"({set_up}\n) || exit", warm_up and f"({warm_up}\n) || true"]))
        if not script:
            return Prepared()
        variant = json.dumps([dict(environment), dict(request.env), self._image], sort_keys=True)
        request = replace(request, env={**self._setup_env, **request.env})
        try:
            prepared = await self._dependencies.prepare(
                request.worktree, project_id=project_id, command=script, variant=variant, scratch=scratch,
                run=lambda home: self._set_up(script, set_up or warm_up, home=home, request=request, log=log),
            )  # fmt: skip
        except Unrecoverable as error:
            if set_up:
                raise
            log.note(f"[going on without a warm cache: {error}]")
            return Prepared()
        if prepared.cached:
            log.note("[set-up: cached]")
        return prepared

    async def _set_up(self, script: str, shown: str, *, home: Path, request: SandboxRequest, log: OutputLog) -> float:
        """Run a set-up script; returns its seconds.

        Raises:
            Unrecoverable: It failed; reason ``setup_failed``.
        """
        log.note(f"[set-up: {shown}]")
        mount = Mount(source=home, target=DependencyCache.HOME, writable=True)
        request = replace(request, command=("/bin/sh", "-c", script), mounts=(mount,))
        result = await beside(log.pump(_nothing), self._sandbox.run(request, log.write))
        await log.finish()
        if result.ending is not RunEnding.EXITED or result.exit_code != 0:
            raise Unrecoverable(f"the set-up command {ended(result)}: {last_words(log)}", reason="setup_failed")
        return result.seconds

    async def _execute(
        self,
        plan: Plan,
        request: SandboxRequest,
        folder: Path,
        *,
        files: Sequence[str],
        cases: Sequence[str] = (),
        log: OutputLog,
        on_progress: Progress | None = None,
    ) -> Run:
        """Run the tests once, all of them or some cases."""
        report = folder / "report"
        report.mkdir(parents=True)
        report.chmod(0o777)
        select = folder / "select.json"
        select.write_text(json.dumps({"files": list(files), "cases": list(cases)}))
        reader = _OF_OUTPUT[plan.format]() if plan.format in _OF_OUTPUT else None
        # Ours from before the program starts: whatever it puts in its place, this one is read.
        events = os.open(report / EVENTS_FILE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        parser = EventParser()
        spool = bytearray()

        def sink(chunk: bytes) -> None:
            log.write(reader.feed(chunk) if reader else chunk)
            if plan.format is ReportFormat.UNKNOWN:
                spool.extend(chunk)

        told = -1

        async def look() -> None:
            nonlocal told
            _read_events(events, parser, _EVENT_CHUNK_BYTES)
            seen = reader.report if reader and not parser.report.started else parser.report
            ended = len(seen.cases)
            if on_progress is not None and ended != told:
                told = ended
                await on_progress(ended, seen.expected)

        began = time.time()
        try:
            with as_file(resource_files("corral.jobs.test_execution") / "reporters") as reporters:
                mounts = (
                    *request.mounts,
                    Mount(source=reporters, target=REPORTERS),
                    Mount(source=report, target=REPORT, writable=True),
                    Mount(source=select, target=SELECT),
                )
                result = await beside(log.pump(look), self._sandbox.run(replace(request, mounts=mounts), sink))
            await asyncio.to_thread(_read_events, events, parser, _REPORT_BYTES)
            log.write(reader.finish() if reader else b"")
            await log.finish()
            await look()
        finally:
            os.close(events)
        parsed = await asyncio.to_thread(
            _parse, plan, parser.report if reader is None or parser.report.started else reader.report,
            report=report, worktree=request.worktree, began=began, output=bytes(spool),
        )  # fmt: skip
        return Run(plan, result, parsed, log)

    async def _rerun(
        self, first: Run, request: SandboxRequest, scratch: Path, *, files: Sequence[str], reruns: int
    ) -> tuple[str, ...]:
        """Run failed cases again; returns the keys of those that passed once."""
        bad = (CaseOutcome.FAILED, CaseOutcome.ERROR)
        failing = {
            case.key: identity
            for case, identity in zip(first.parsed.cases, first.parsed.identities, strict=True)
            if case.outcome in bad
        }
        flaky: list[str] = []
        for number in range(reruns):
            if not failing or first.result.ending is not RunEnding.EXITED:
                break
            first.log.note(f"[run {number + 2}: {len(failing)} failed cases once more]")
            # Only our own reporters can pick single cases; other runners run all again.
            cases = [identity for identity in failing.values() if identity]
            again = await self._execute(
                first.plan, request, scratch / str(number + 2), files=files, cases=cases, log=first.log
            )
            passed = {case.key for case in again.parsed.cases if case.outcome is CaseOutcome.PASSED}
            for key in [key for key in failing if key in passed]:
                flaky.append(key)
                del failing[key]
        return tuple(flaky)

    async def _keep_artifacts(self, project_id: str, worktree: Path, began: float) -> tuple[Artifact, ...]:
        """Keep the screenshots and reports that the run left."""
        if self._artifacts is None:
            return ()
        found = await asyncio.to_thread(find_artifacts, worktree, began)
        await self._artifacts.put(project_id, found)
        return tuple(one.artifact for one in found)


def _planned(
    command: str, request: SandboxRequest, prepared: Prepared, files: Sequence[str], log: OutputLog
) -> tuple[Plan, SandboxRequest]:
    """How the tests are run, and what the sandbox is asked for."""
    plan = plan_run(command, worktree=request.worktree, files=files, env=request.env)
    if files and not plan.limited and plan.format is ReportFormat.UNKNOWN:
        log.note("[the runner of this command is not known: files can't limit it]")
    return plan, replace(request, command=("/bin/sh", "-c", plan.command), env=plan.env, mounts=prepared.mounts)


def _present(worktree: Path, files: Sequence[str], log: OutputLog) -> tuple[str, ...]:
    """Leave out the files that this commit does not have; blocks.

    Raises:
        Unrecoverable: It has none of them; reason ``no_tests_collected``.
    """
    missing = [file for file in files if _is_missing(worktree, file)]
    if missing:
        log.note(f"[not in this commit: {', '.join(missing[:20])}]")
    if files and len(missing) == len(files):
        raise Unrecoverable(
            f"none of the {len(files)} files is in this commit: {', '.join(missing[:5])}", reason="no_tests_collected"
        )
    return tuple(file for file in files if file not in missing)


def _is_missing(worktree: Path, file: str) -> bool:
    where = worktree
    for part in Path(file).parts:
        where = where / part
        if not os.path.lexists(where):
            return True
        if where.is_symlink():
            return False  # what it leads to is for the sandbox to say: nothing of the host is looked at
    return False


async def _nothing() -> None:
    pass


def _read_events(descriptor: int, parser: EventParser, most_bytes: int) -> None:
    """Read what has been added to the file; never more than the bound in all."""
    left = min(most_bytes, _REPORT_BYTES - os.lseek(descriptor, 0, os.SEEK_CUR))
    while left > 0:
        chunk = os.read(descriptor, min(left, _EVENT_CHUNK_BYTES))
        if not chunk:
            return
        parser.feed(chunk)
        left -= len(chunk)


def _parse(
    plan: Plan, live: ParsedReport, *, report: Path, worktree: Path, began: float, output: bytes
) -> ParsedReport:
    """Find and read the report of a run; an unreadable one counts as none.

    Args:
        plan: How it was run.
        live: What was read while it ran.
        report: The report folder.
        worktree: Where it ran.
        began: When, in seconds of the epoch.
        output: What it printed, where nothing else was asked for.
    """
    if plan.format is ReportFormat.GO:
        _place_go_tests(live, worktree)
    if live.started or plan.format is ReportFormat.EVENTS or plan.format in _OF_OUTPUT:
        return live
    text = output.decode(errors="replace")
    if plan.report is not None:
        folder = worktree if plan.report_in_worktree else report
        try:
            return _OF_FILE[plan.format](read_bounded(folder, plan.report, most_bytes=_REPORT_BYTES))
        except (UnreadableReportError, UnsafeFileError, OSError):
            return ParsedReport()
    found = find_junit(worktree, began)
    if found is None and looks_like_tap(text):
        found = parse_tap(text)
        found.runner = "tap"
    return found or ParsedReport()


def _place_go_tests(report: ParsedReport, worktree: Path) -> None:
    """Name the files of Go's cases, which Go doesn't."""
    places = files_of_tests(worktree)
    for position, case in enumerate(report.cases):
        function = _GO_FUNCTION.match(case.name)
        if function and (file := places.get(function[1])):
            report.cases[position] = case.model_copy(update={"file": file})


_GO_FUNCTION = re.compile(r"^(.+?\.(?:Test|Example|Fuzz)\w*)(?:/|$)")  # "package.Test/part of it"
_OF_OUTPUT: dict[ReportFormat, type[OutputParser]] = {ReportFormat.GO: GoParser, ReportFormat.CARGO: CargoParser}
_OF_FILE = {ReportFormat.JUNIT: parse_junit, ReportFormat.JEST: parse_jest}


def _environment(said: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in said.splitlines():
        name, separator, version = line.partition("=")
        if not separator:
            found.setdefault("system", line.strip())
        elif match := re.search(r"\d+(?:\.\d+)+", version):
            found[name.strip()] = match.group()
    return found
