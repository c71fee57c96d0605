"""BullMQ's scripts are loaded from its package at run time; what Corral relies on in them is pinned here.

For each script that Corral runs: its keys in order, its arguments in order, the options that it reads from packed
arguments, and its replies, as the script's own header and body give them. When an upgrade of ``bullmq`` fails here,
read the difference, mend ``corral.wire.scripts``, and write the new pins:
``python -m tests.unit.wire.test_scripts_pinned``.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import corral
from corral.wire.scripts import Script, script

PINS = Path(__file__).with_name("scripts_pinned.json")
SOURCES = Path(corral.__file__).parent


def _package_names() -> set[str]:
    """Names of all scripts that the installed package holds."""
    folder = Path(_package_folder())
    return {path.name.rpartition("-")[0] for path in folder.glob("*-*.lua")}


def _package_folder() -> str:
    import importlib.util  # noqa: PLC0415 - importing bullmq itself would cost a third of a second

    spec = importlib.util.find_spec("bullmq")
    assert spec is not None
    assert spec.submodule_search_locations
    return f"{next(iter(spec.submodule_search_locations))}/commands"


def _names_used() -> set[str]:
    """Every script that Corral's sources name in a string."""
    names = _package_names()
    used: set[str] = set()
    for room in ("wire", "queue"):
        for path in (SOURCES / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and node.value in names:
                    used.add(node.value)
    return used


def _header_lines(source: str) -> Iterator[str]:
    """Lines of the leading comment, without what is prose."""
    comment = source.partition("--[[")[2].partition("]]")[0]
    for line in comment.splitlines():
        text = re.sub(r"\s+", " ", line).strip(" ,")
        if re.match(r"(KEYS|ARGV)\s*\[\d+\]|\[\d+\]|opts - |-?\d+ ?-? ?\S|>? ?\d+", text):
            yield text


def _contract(found: Script) -> dict[str, Any]:
    body = found.source
    highest = {kind: max(map(int, re.findall(rf"{kind}\[(\d+)\]", body)), default=0) for kind in ("KEYS", "ARGV")}
    options = re.findall(r"""\b(?:opts|jobOpts|schedulerOpts|templateOpts)(?:\[['"](\w+)['"]\]|\.(\w+))""", body)
    return {
        "key_count": found.key_count,
        "highest_key": highest["KEYS"],
        "highest_argument": highest["ARGV"],
        "options": sorted({a or b for a, b in options}),
        "header": list(_header_lines(body)),
    }


def _pins() -> dict[str, dict[str, Any]]:
    pins: dict[str, dict[str, Any]] = json.loads(PINS.read_text(encoding="utf-8"))
    return pins


@pytest.mark.parametrize("name", sorted(_pins()) if PINS.exists() else [])
def test_a_script_takes_what_it_took_and_answers_what_it_answered(name: str) -> None:
    assert _contract(script(name)) == _pins()[name]


def test_every_script_that_corral_runs_is_pinned() -> None:
    assert _names_used() <= set(_pins()), "new scripts: write the pins anew, as this module says"
    assert len(_names_used()) > 20, "the search for script names in the sources finds too few"


@pytest.mark.parametrize("change", ["key", "argument", "option"])
def test_a_changed_script_is_noticed(change: str) -> None:
    real = script("moveToActive")
    changed = {
        "key": real.source.replace("KEYS[3] prioritized key", "KEYS[3] other key"),
        "argument": real.source.replace("ARGV[2] timestamp", "ARGV[2] token"),
        "option": real.source + "\nlocal x = opts['somethingNew']",
    }[change]
    assert changed != real.source
    assert _contract(Script(real.name, real.key_count, changed, "")) != _pins()["moveToActive"]


if __name__ == "__main__":
    written = {name: _contract(script(name)) for name in sorted(_names_used())}
    PINS.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
