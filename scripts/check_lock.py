"""Check that the lock fits ``pyproject.toml``: every dependency is pinned, fits, has a hash, and names no address."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Print what is wrong, one line each; the number of lines decides the exit code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    faults = [
        *lock_faults("run", [*core(project), *group(project, "build")]),
        *lock_faults("dev", [*core(project), *group(project, "dev")]),
        *node_faults(),
    ]
    for fault in faults:
        print(f"{fault}. Mend: make lock", file=sys.stderr)
    return 1 if faults else 0


def core(project: dict[str, Any]) -> Iterator[Requirement]:
    """What the package and all its extras ask for."""
    own = canonicalize_name(project["project"]["name"])
    extras = project["project"]["optional-dependencies"].values()
    for text in chain(project["project"]["dependencies"], *extras):
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != own:  # `all` names the other extras
            yield requirement


def group(project: dict[str, Any], name: str) -> Iterator[Requirement]:
    """What a dependency group asks for, groups inside it included."""
    for entry in project["dependency-groups"][name]:
        if isinstance(entry, dict):
            yield from group(project, entry["include-group"])
        else:
            yield Requirement(entry)


def lock_faults(name: str, wanted: list[Requirement]) -> Iterator[str]:
    """What is wrong with one lock file."""
    path = ROOT / "requirements" / f"{name}.txt"
    text = path.read_text()
    if "://" in text:
        yield f"requirements/{name}.txt names an address"
    pinned: dict[str, list[str]] = {}
    for entry in text.replace("\\\n", " ").splitlines():
        if entry.startswith("#"):
            continue
        if entry.startswith("-"):
            yield f"requirements/{name}.txt: expected pinned packages only, got {entry!r}"
            continue
        if "--hash=sha256:" not in entry:
            yield f"requirements/{name}.txt: no hash in {entry!r}"
        requirement = Requirement(entry.split("--hash")[0])
        (specifier,) = requirement.specifier
        pinned.setdefault(canonicalize_name(requirement.name), []).append(specifier.version)
    for requirement in wanted:
        versions = pinned.get(canonicalize_name(requirement.name), [])
        if not versions:
            yield f"requirements/{name}.txt does not pin {requirement.name}"
        elif not all(requirement.specifier.contains(version, prereleases=True) for version in versions):
            found = ", ".join(versions)
            yield f"requirements/{name}.txt pins {requirement.name} {found}, expected {requirement.specifier}"


def node_faults() -> Iterator[str]:
    """What is wrong with the locks of the Node modules."""
    for name in ("node", "runners"):
        if '"resolved"' in (ROOT / "tests" / name / "package-lock.json").read_text():
            yield f"tests/{name}/package-lock.json names an address"


if __name__ == "__main__":
    sys.exit(main())
