"""The units of ``deploy/``: systemd takes them, they start commands that exist, and they wait for jobs to end."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from corral import Settings

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy").glob("*.service"))
CORRAL = Path(sys.executable).with_name("corral")


def value_of(unit: Path, name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == 1, f"{unit.name}: {name} is there {len(found)} times"
    return str(found[0])


def test_there_are_units() -> None:
    assert [unit.name for unit in UNITS] == ["corral-serve.service", "corral-worker@.service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    """Every warning counts: a misspelt setting is one, and would be ignored."""
    placed = tmp_path / unit.name.replace("@.", "@1.")
    text = unit.read_text(encoding="utf-8").replace("/opt/corral/.venv/bin/corral", "/bin/true")
    placed.write_text(text, encoding="utf-8")
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(placed)], capture_output=True, text=True, check=False
    )
    assert [line for line in told.stderr.splitlines() if unit.name.split("@")[0].split(".")[0] in line] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_it_starts_a_command_that_exists(unit: Path) -> None:
    _, command, *options = value_of(unit, "ExecStart").split()
    told = subprocess.run([str(CORRAL), command, "--help"], capture_output=True, text=True, check=True)
    assert all(option in told.stdout for option in options)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_it_is_nobody_special_and_waits_for_jobs_to_end(unit: Path) -> None:
    assert value_of(unit, "User") == "corral"
    assert value_of(unit, "NoNewPrivileges") == "yes"
    assert value_of(unit, "CapabilityBoundingSet") == ""
    assert value_of(unit, "KillMode") == "mixed"  # SIGTERM is the worker's to handle, not its handlers' processes'
    patience = Settings(_env_file=None).shutdown_timeout
    assert float(value_of(unit, "TimeoutStopSec")) > patience.total_seconds()
