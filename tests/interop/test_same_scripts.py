"""The scripts of both languages' packages are the same contract."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.interop.driver import PACKAGES

from corral.wire.scripts import script

PINS = Path(__file__).parents[1] / "unit" / "wire" / "scripts_pinned.json"
#: Node's has a further, optional argument, and only reads.
NEWER_IN_NODE = {"getCounts"}
NAMES = sorted(set(json.loads(PINS.read_text(encoding="utf-8"))) - NEWER_IN_NODE)


def _header(source: str) -> list[str]:
    comment = source.partition("--[[")[2].partition("]]")[0]
    return re.findall(r"((?:KEYS|ARGV)\s*\[\d+\][^\n]*?)\s*,?\n", comment)


@pytest.mark.parametrize("name", NAMES)
def test_node_has_the_script_with_the_same_keys_and_arguments(name: str) -> None:
    (path,) = (PACKAGES / "bullmq" / "dist" / "cjs" / "scripts").glob(f"{name}-*.js")
    ours = script(name)
    assert path.stem == f"{name}-{ours.key_count}"
    theirs = path.read_text(encoding="utf-8")
    assert [re.sub(r"\s+", " ", line) for line in _header(theirs)] == [
        re.sub(r"\s+", " ", line) for line in _header(ours.source)
    ]
