"""BullMQ's adding scripts with ours round them: what has to be found in them is found, or nothing runs."""

from __future__ import annotations

import pytest

from corral.errors import ConfigurationError
from corral.wire.scripts import script
from corral.wire.shared import OURS, source


@pytest.mark.parametrize("name", ["addStandardJob", "addPrioritizedJob", "addDelayedJob", "addParentJob"])
def test_bullmqs_script_is_whole_but_for_the_place_of_the_job(name: str) -> None:
    theirs, ours = script(name), script(OURS + name)
    assert ours.key_count == theirs.key_count
    changed = [line for line in theirs.source.splitlines() if line not in ours.source.splitlines()]
    assert len(changed) == (name == "addPrioritizedJob")
    assert all("addJobWithPriority(" in line for line in changed)
    assert ours.source.count("slot_of(jobId)") == len(changed)


def test_a_version_that_places_jobs_in_another_way_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="another way"):
        source(f"{OURS}addPrioritizedJob", lambda _: (9, "addJobSomehow(KEYS[1], jobId)\n"))


@pytest.mark.parametrize(("name", "keys"), [("room", 1), ("pass", 1), ("enter", 2), ("leave", 1)])
def test_our_own_scripts_say_how_many_keys_they_take(name: str, keys: int) -> None:
    found = script(OURS + name)
    assert found.key_count == keys
    assert f"KEYS[{keys}] " in found.source
    assert f"KEYS[{keys + 1}] " not in found.source
