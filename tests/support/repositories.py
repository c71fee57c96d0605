"""Small git repositories for tests, made with plain git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


def git(folder: Path, *args: str, stdin: str | None = None) -> str:
    """Run git as a person would and give what it printed."""
    done = subprocess.run(
        ["git", "-C", str(folder), *args],
        env=_ENVIRONMENT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"git {' '.join(args)}: {done.stderr}"
    return done.stdout.strip()


def commit(folder: Path) -> str:
    """Commit all that lies in a folder, also when nothing has changed, and give the hash."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "change")
    return git(folder, "rev-parse", "HEAD")


class Repository:
    """A bare repository ("the forge's") and a person's clone of it."""

    def __init__(self, folder: Path, files: Mapping[str, str] | None = None) -> None:
        self.bare = folder / "origin.git"
        self.clone = folder / "clone"
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        git(folder, "init", "--quiet", "--initial-branch=main", str(self.clone))
        git(self.clone, "remote", "add", "origin", str(self.bare))
        self.commit(files or {"README.md": "# Sample\n", "src/add.py": "def add(a, b):\n    return a + b\n"})

    def commit(self, files: Mapping[str, str | None], *, branch: str = "main", message: str = "Work") -> str:
        """Commit files as a person (None deletes one), push, and give the hash."""
        if git(self.clone, "branch", "--list", branch):
            git(self.clone, "checkout", "--quiet", branch)
        elif git(self.clone, "rev-list", "--all", "--max-count=1"):
            git(self.clone, "checkout", "--quiet", "-b", branch)
        for name, content in files.items():
            path = self.clone / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        git(self.clone, "add", "--all", ".")
        git(self.clone, "commit", "--quiet", "--message", message)
        git(self.clone, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
        return git(self.clone, "rev-parse", "HEAD")

    def tip(self, branch: str = "main") -> str:
        return git(self.bare, "rev-parse", f"refs/heads/{branch}")

    def branches(self) -> list[str]:
        return git(self.bare, "for-each-ref", "--format=%(refname:short)", "refs/heads").splitlines()

    def show(self, revision: str) -> str:
        return git(self.bare, "show", revision)
