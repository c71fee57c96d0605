"""What the doctor makes of what it sees."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from corral.errors import SandboxUnavailable
from corral.interfaces.cli.doctor.finding import Finding, Verdict
from corral.interfaces.cli.doctor.machine import check_by_trying, check_disk, check_env_file, check_strays
from corral.interfaces.cli.doctor.queues import QueueSeen, check_queues
from corral.interfaces.cli.doctor.store import check_store
from corral.queue.status import QueueStats
from corral.settings import Settings
from corral.wire.connection import RedisClient

_GOOD: Mapping[str, Any] = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "maxmemory_policy": "noeviction",
    "maxmemory": 100 * 2**20,
    "used_memory": 2**20,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
}


class _Server:
    def __init__(self, info: Mapping[str, Any], clock_ahead_s: float = 0.0) -> None:
        self._info = info
        self._ahead = clock_ahead_s

    async def ping(self) -> bool:
        return True

    async def info(self) -> Mapping[str, Any]:
        return self._info

    async def time(self) -> tuple[int, int]:
        now = datetime.now(UTC).timestamp() + self._ahead
        return int(now), int(now % 1 * 1e6)


async def _findings(
    changes: Mapping[str, Any], *, tls: bool = True, embedded: bool = False, ahead: float = 0.0
) -> dict[str, Finding]:
    info = {name: value for name, value in {**_GOOD, **changes}.items() if value is not None}
    server = cast("RedisClient", _Server(info, ahead))
    return {finding.check: finding for finding in await check_store(server, tls=tls, embedded=embedded)}


async def test_a_good_server_has_nothing_to_mend() -> None:
    findings = await _findings({})
    assert {finding.verdict for finding in findings.values()} == {Verdict.OK}
    assert not any(finding.mend for finding in findings.values())


@pytest.mark.parametrize(
    ("changes", "check", "verdict", "said"),
    [
        ({"redis_version": "6.0.16"}, "version", Verdict.FAULT, "6.0.16"),
        ({"maxmemory_policy": "allkeys-lru"}, "eviction", Verdict.FAULT, "drop jobs"),
        ({"maxmemory_policy": None}, "eviction", Verdict.NOTE, "doesn't say"),
        ({"used_memory": 85 * 2**20}, "memory", Verdict.WARNING, "85%"),
        ({"used_memory": 99 * 2**20}, "memory", Verdict.FAULT, "refuses new jobs"),
        ({"aof_enabled": 0}, "persistence", Verdict.WARNING, "lost"),
        ({"aof_last_write_status": "err"}, "persistence", Verdict.FAULT, "can't be written"),
        ({"redis_version": None, "valkey_version": None}, "version", Verdict.NOTE, "doesn't say"),
    ],
)
async def test_each_fault_of_a_server_is_found(
    changes: Mapping[str, Any], check: str, verdict: Verdict, said: str
) -> None:
    finding = (await _findings(changes))[check]
    assert (finding.verdict, said in finding.detail) == (verdict, True), finding
    assert finding.mend or verdict is Verdict.NOTE


async def test_a_clock_that_runs_away_is_found() -> None:
    finding = (await _findings({}, ahead=30.0))["clock"]
    assert finding.verdict is Verdict.WARNING
    assert "30.0 s" in finding.detail


async def test_no_encryption_matters_only_beyond_this_machine() -> None:
    assert (await _findings({}, tls=False))["encryption"].verdict is Verdict.WARNING
    assert (await _findings({}, tls=False, embedded=True))["encryption"].verdict is Verdict.OK


def _stats(**counts: Any) -> QueueStats:
    zero = dict.fromkeys(("waiting", "active", "completed", "failed", "delayed", "prioritized", "waiting_children"), 0)
    return QueueStats(**{"job_type": "q", "paused": False, "global_concurrency": None, **zero, **counts})


@pytest.mark.parametrize(
    ("stats", "workers", "verdict", "mend"),
    [
        (_stats(waiting=3), 0, Verdict.FAULT, "corral worker --queues q"),
        (_stats(waiting=3, paused=True), 1, Verdict.FAULT, "corral resume q"),
        (_stats(active=1), 0, Verdict.FAULT, "corral worker --queues q"),
        (_stats(paused=True), 1, Verdict.NOTE, "corral resume q"),
        (_stats(failed=50, completed=2), 1, Verdict.WARNING, "corral list q --state failed"),
    ],
)
def test_why_jobs_are_stuck(stats: QueueStats, workers: int, verdict: Verdict, mend: str) -> None:
    (finding,) = check_queues([QueueSeen(stats, workers)])
    assert finding.verdict is verdict
    assert finding.mend.startswith(mend)


def test_queues_that_move_are_well() -> None:
    (finding,) = check_queues(
        [QueueSeen(_stats(waiting=1000, active=5, completed=10), workers=1), QueueSeen(_stats(), 0)]
    )
    assert finding.verdict is Verdict.OK


def test_an_env_file_for_everybody_is_found(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    assert check_env_file(file) is None
    file.touch(mode=0o644)
    file.chmod(0o644)
    assert cast("Finding", check_env_file(file)).mend == "chmod 600 .env"
    file.chmod(0o600)
    assert cast("Finding", check_env_file(file)).verdict is Verdict.OK


def test_a_data_folder_that_is_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    finding = check_disk(Settings(data_dir=tmp_path / "taken" / "data"), local_model_missing=False)
    assert finding.verdict is Verdict.FAULT
    assert "CORRAL_DATA_DIR" in finding.mend


def test_a_data_folder_is_left_as_it_was(tmp_path: Path) -> None:
    assert check_disk(Settings(data_dir=tmp_path), local_model_missing=False).verdict in {Verdict.OK, Verdict.WARNING}
    assert list(tmp_path.iterdir()) == []


async def test_a_part_that_breaks_is_a_finding() -> None:
    async def refuses() -> str:
        raise SandboxUnavailable("no user namespaces")

    async def breaks() -> str:
        raise ZeroDivisionError

    assert await check_by_trying("sandbox", refuses, "mend it") == Finding(
        "sandbox", Verdict.FAULT, "no user namespaces", "mend it"
    )
    assert (await check_by_trying("sandbox", breaks, "")).detail.startswith(
        "the check itself failed: ZeroDivisionError"
    )


def test_variables_that_are_no_settings_are_told() -> None:
    like, unlike = check_strays({"CORRAL_CONCURENCY": "CORRAL_CONCURRENCY", "CORRAL_TEAM": None})
    assert (like.verdict, like.mend) == (Verdict.WARNING, "is CORRAL_CONCURRENCY meant?")
    assert (unlike.detail, unlike.mend) == ("CORRAL_TEAM is no setting", "docs/settings.md lists them all")
