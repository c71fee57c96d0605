"""Real hunks: what changed between two published versions of real packages, one hunk at a time."""

from __future__ import annotations

import difflib
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Pair = tuple[str, str, str]
"""A package and two of its versions."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Packages whose changes are looked at together."""

    python: tuple[Pair, ...]
    node: tuple[Pair, ...] = ()


SAMPLES = {
    # The matcher was worked out on these.
    "known": Sample(
        python=(
            ("click", "8.1.3", "8.1.7"),
            ("attrs", "22.2.0", "23.2.0"),
            ("requests", "2.28.0", "2.32.3"),
            ("jinja2", "3.0.3", "3.1.4"),
            ("idna", "3.4", "3.7"),
            ("rich", "12.6.0", "13.7.1"),
        ),
        node=(("express", "4.17.1", "4.19.2"), ("semver", "7.3.5", "7.6.0")),
    ),
    # Nothing was ever changed because of these; when that has to be done, they belong to the above.
    "held-out": Sample(
        python=(
            ("werkzeug", "2.2.3", "3.0.4"),
            ("urllib3", "1.26.18", "2.2.3"),
            ("packaging", "23.0", "24.1"),
            ("pluggy", "1.0.0", "1.5.0"),
            ("httpx", "0.23.0", "0.27.2"),
            ("marshmallow", "3.18.0", "3.22.0"),
            ("tomlkit", "0.11.6", "0.13.2"),
        ),
        node=(("ws", "8.5.0", "8.18.0"), ("commander", "9.0.0", "12.1.0"), ("debug", "4.3.1", "4.3.7")),
    ),
}
_SUFFIXES = (".py", ".pyi", ".js", ".ts", ".md", ".txt", ".json")
_CONTEXT = 3
_MOST_LINES = 60


@dataclass(frozen=True, kw_only=True)
class Hunk:
    """One change of one file."""

    path: str
    old: tuple[str, ...]
    """The whole file before."""
    start: int
    end: int
    """What of it the edit quotes."""
    replace: tuple[str, ...]
    """What takes its place."""
    touched: tuple[int, ...]
    """Of the quoted lines: those that the change replaces or removes, counted from ``start``."""

    @property
    def search(self) -> tuple[str, ...]:
        return self.old[self.start : self.end]

    @property
    def new(self) -> tuple[str, ...]:
        """The whole file after this hunk alone."""
        return (*self.old[: self.start], *self.replace, *self.old[self.end :])


def download(folder: Path, sample: Sample) -> None:
    """Fetch the pairs with the packages' ordinary clients; what is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, *versions in sample.python:
        for version in versions:
            if not any(folder.glob(f"[{name[0]}{name[0].upper()}]{name[1:]}-{version}-*.whl")):
                command = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
                subprocess.run([sys.executable, "-m", "pip", *command, f"{name}=={version}"], check=True)
    for name, *versions in sample.node:
        for version in versions:
            if not (folder / f"{name}-{version}.tgz").exists():
                subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True)


def hunks(folder: Path, sample: Sample, *, count: int, seed: int) -> list[Hunk]:
    """So many hunks, the same for the same seed, evenly from all packages."""
    chance = random.Random(seed)
    by_package: list[list[Hunk]] = []
    for name, old, new in sample.python:
        pattern = f"[{name[0]}{name[0].upper()}]{name[1:]}"
        before, after = (next(folder.glob(f"{pattern}-{version}-*.whl")) for version in (old, new))
        by_package.append(list(_hunks_of(_wheel(before), _wheel(after), name)))
    for name, old, new in sample.node:
        before, after = folder / f"{name}-{old}.tgz", folder / f"{name}-{new}.tgz"
        by_package.append(list(_hunks_of(_tarball(before), _tarball(after), name)))
    for package in by_package:
        chance.shuffle(package)
    chosen: list[Hunk] = []
    while len(chosen) < count and any(by_package):
        chosen.extend(package.pop() for package in by_package if package)
    return chosen[:count]


def _wheel(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(_SUFFIXES) and ".dist-info/" not in name]
        return {name: archive.read(name).decode("utf-8", errors="replace") for name in names}


def _tarball(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() and member.name.endswith(_SUFFIXES) else None
            if file is not None:
                found[member.name] = file.read().decode("utf-8", errors="replace")
    return found


def _hunks_of(before: dict[str, str], after: dict[str, str], package: str) -> Iterator[Hunk]:
    for path in sorted(before.keys() & after.keys()):
        if before[path] != after[path]:
            yield from _file_hunks(f"{package}/{path}", before[path].splitlines(), after[path].splitlines())


def _file_hunks(path: str, old: list[str], new: list[str]) -> Iterator[Hunk]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        start, end = group[0][1], group[-1][2]
        replace = tuple(new[group[0][3] : group[-1][4]])
        touched = tuple(at - start for tag, a, b, _, _ in group if tag != "equal" for at in range(a, b))
        solid = sum(1 for line in old[start:end] if line.strip())
        if solid and end - start <= _MOST_LINES and len(replace) <= 2 * _MOST_LINES:
            yield Hunk(path=path, old=tuple(old), start=start, end=end, replace=replace, touched=touched)
