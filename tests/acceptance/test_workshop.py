"""The workshop tells what is missing, and CI can't be green without a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that decide, in a folder of their own."""
    for name in ("scripts", "requirements", ".ci"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("node", "runners"):
        (tmp_path / "tests" / name).mkdir(parents=True)
        shutil.copy(ROOT / "tests" / name / "package-lock.json", tmp_path / "tests" / name / "package-lock.json")
    return tmp_path


def _program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def _run(checkout: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(checkout), **variables}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_no_python_is_told(checkout: Path) -> None:
    done = _run(checkout, "make", "setup", PYTHON="python-that-is-not-there")
    assert done.returncode != 0
    assert "found no 'python-that-is-not-there'. Mend:" in done.stderr


def test_an_old_python_is_told(checkout: Path) -> None:
    old = _program(checkout / "old", "python3", 'case "$2" in *SystemExit*) exit 1;; esac; echo 3.9.2')
    done = _run(checkout, "make", "setup", PYTHON=str(old))
    assert done.returncode != 0
    assert "expected Python 3.11 or newer" in done.stderr
    assert "is 3.9.2" in done.stderr


def test_a_python_without_venv_is_told(checkout: Path) -> None:
    bare = _program(checkout / "bare", "python3", 'case "$2" in *venv*) exit 1;; esac; echo 3.12.1')
    done = _run(checkout, "make", "setup", PYTHON=str(bare))
    assert done.returncode != 0
    assert "no venv module. Mend:" in done.stderr


def test_no_git_is_told(checkout: Path) -> None:
    programs = checkout / "programs"
    programs.mkdir()
    for name in ("sh", "dirname", "basename", "cat", "apt-get"):
        found = shutil.which(name)
        if found:
            (programs / name).symlink_to(found)
    done = _run(checkout, "/bin/sh", "scripts/setup.sh", "run", PATH=str(programs), PYTHON=sys.executable)
    assert done.returncode != 0
    assert "git is missing. Mend:" in done.stderr
    assert not (checkout / ".venv").exists(), "nothing half-done stays behind"


def test_the_lock_fits_what_is_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/check_lock.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("\npytest==", "\npytost==", "does not pin pytest"),
        ("\npytest==", "\npytest==0.", "expected >="),
        ("\npytest==", "\n--index-url https://example.invalid\npytest==", "names an address"),
        ("\npytest==", "\npytost==1.0\npytest==", "no hash in 'pytost==1.0'"),
    ],
)
def test_a_lock_that_does_not_fit_is_told(checkout: Path, before: str, after: str, said: str) -> None:
    lock = checkout / "requirements" / "dev.txt"
    text = lock.read_text()
    assert before in text
    lock.write_text(text.replace(before, after, 1))
    done = _run(checkout, sys.executable, "scripts/check_lock.py")
    assert done.returncode == 1
    assert said in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("closing", "code", "expected"),
    [
        ("===== 12 passed, 1 skipped in 3.21s =====", 0, 0),
        ("===== 12 passed, 1 skipped in 83.21s (0:01:23) =====", 0, 0),
        ("===== 1 failed, 12 passed in 3.21s =====", 2, 2),
        ("===== 3 skipped in 0.01s =====", 0, 1),
        ("===== no tests ran in 0.01s =====", 0, 1),
        ("nothing like it", 0, 1),
    ],
)
def test_ci_is_green_only_when_tests_ran(checkout: Path, closing: str, code: int, expected: int) -> None:
    programs = checkout / "programs"
    _program(programs, "make", f'echo "{closing}"; exit {code}')
    for name in ("redis-server", "chromium", "bwrap"):  # as if they were installed
        _program(programs, name, "exit 0")
    done = _run(checkout, "bash", ".ci/run", PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == expected, done.stdout + done.stderr
    if "in " in closing:
        assert closing in done.stdout.splitlines()[-1]
