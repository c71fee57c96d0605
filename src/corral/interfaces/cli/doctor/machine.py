"""This machine: git, disk, sandbox, model, forge token."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from corral.adapters.processes import start_group
from corral.errors import CorralError
from corral.interfaces.cli.doctor.finding import Finding, Verdict
from corral.settings import Settings

_OLDEST_GIT = (2, 38)
_LEAST_FREE_BYTES = 1 << 30
_MODEL_BYTES = 3 << 30
_PROGRAM_TIMEOUT_S = 10.0


async def check_git() -> Finding:
    """Whether git is here and new enough for what the mirrors ask of it."""
    program = shutil.which("git")
    if program is None:
        return Finding("git", Verdict.FAULT, "git is not installed", "apt-get install git")
    process = await start_group(program, "--version", stdout=asyncio.subprocess.PIPE)
    printed, _ = await asyncio.wait_for(process.communicate(), _PROGRAM_TIMEOUT_S)
    text = printed.decode(errors="replace").strip().removeprefix("git version ")
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST_GIT:
        return Finding("git", Verdict.FAULT, f"git {text}; 2.38 or newer is needed", "upgrade git")
    return Finding("git", Verdict.OK, text)


def check_disk(settings: Settings, *, local_model_missing: bool) -> Finding:
    """Whether the data folder can be written, and has room."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".doctor"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Finding(
            "data folder",
            Verdict.FAULT,
            f"{folder} can't be written: {error.strerror}",
            "set CORRAL_DATA_DIR to a folder of yours",
        )
    free = shutil.disk_usage(folder).free
    needed = _LEAST_FREE_BYTES + (_MODEL_BYTES if local_model_missing else 0)
    detail = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < needed:
        return Finding(
            "data folder",
            Verdict.WARNING,
            f"{detail}; {needed / 2**30:.0f} GiB are wanted",
            "free some space, or set CORRAL_DATA_DIR",
        )
    return Finding("data folder", Verdict.OK, detail)


async def check_by_trying(check: str, attempt: Callable[[], Awaitable[str | Finding]], mend: str) -> Finding:
    """What a part says of itself when it is tried. One that breaks is a finding, and keeps no other from its turn."""
    try:
        said = await attempt()
    except CorralError as error:
        return Finding(check, Verdict.FAULT, str(error), mend)
    except Exception as error:  # noqa: BLE001 - a doctor that falls over helps nobody
        return Finding(check, Verdict.FAULT, f"the check itself failed: {type(error).__name__}: {error}", mend)
    return said if isinstance(said, Finding) else Finding(check, Verdict.OK, said)


def check_strays(strays: Mapping[str, str | None]) -> list[Finding]:
    """Variables that look like settings and are none, each with the one that may be meant."""
    return [
        Finding(
            "settings",
            Verdict.WARNING,
            f"{name} is no setting",
            f"is {meant} meant?" if meant else "docs/settings.md lists them all",
        )
        for name, meant in strays.items()
    ]


def check_env_file(path: Path) -> Finding | None:
    """Whether a ``.env`` with secrets in it can be read by everybody."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if mode & 0o044:
        return Finding(".env", Verdict.WARNING, "readable by other users of this machine", "chmod 600 .env")
    return Finding(".env", Verdict.OK, "readable by you alone")
