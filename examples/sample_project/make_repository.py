"""Make a git repository out of the folders in ``history``: one commit for each, always with the same hashes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

HISTORY = Path(__file__).with_name("history")
_FIRST_COMMIT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def make_repository(target: Path) -> Path:
    """Make the repository in ``target``, which must not exist or be empty; returns it."""
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise SystemExit(f"{target} is not empty")
    _git(target, "init", "--quiet", "--initial-branch=main")
    for number, folder in enumerate(sorted(HISTORY.iterdir())):
        message = (folder / "message.txt").read_text(encoding="utf-8")
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("message.txt", "__pycache__"))
        _git(target, "add", "--all")
        when = (_FIRST_COMMIT + timedelta(days=number, hours=number)).isoformat()
        _git(target, "commit", "--quiet", f"--message={message}", when=when)
    return target


def _git(folder: Path, *arguments: str, when: str = "") -> None:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "Robin Ortega",
        "GIT_AUTHOR_EMAIL": "robin@example.com",
        "GIT_COMMITTER_NAME": "Robin Ortega",
        "GIT_COMMITTER_EMAIL": "robin@example.com",
    }
    if when:
        environment |= {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    subprocess.run(
        ["git", "-C", str(folder), "-c", "core.hooksPath=/dev/null", *arguments], env=environment, check=True
    )


if __name__ == "__main__":
    print(make_repository(Path(sys.argv[1])))
