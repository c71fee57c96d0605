"""The scripts of queues that are shared by their users: ours, and BullMQ's adding scripts with ours round them.

BullMQ's part is read from the ``bullmq`` distribution at run time, as everywhere; ours are the files in ``lua``. Both
run as one script, so that a job is added and given its place in one atomic step, in one round trip, and in a
transaction too. What each takes and replies stands at its head.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from corral.errors import ConfigurationError

_FOLDER = Path(__file__).with_name("lua")
#: Names of these scripts begin so.
OURS = "users:"
#: Our scripts, with how many keys each takes.
_OWN = {"room": 1, "pass": 1, "enter": 2, "leave": 1}

#: Priorities from here on are slots: an own job's priority is below.
FIRST_SLOT = 1_024

#: Where BullMQ's script puts the new job into its order: the priority there becomes the job's slot.
_PLACING = re.compile(r"^(addJobWithPriority\(\s*KEYS\[1\],\s*priorityKey,\s*)priority(,\s*jobId,)", re.MULTILINE)

Kind = Literal["now", "later", "parent", "plain"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """How all adding scripts of one transaction hear that one of its users has no room.

    Args:
        key: In the queues' hash slot.
        token: The transaction's own.
    """

    key: str
    token: str


class Share(NamedTuple):
    """What an adding script is told of a job's user. A tuple, as one is made for every job.

    Attributes:
        user: ``""``: nobody's.
        max_waiting: 0: any number; so ``max_active``.
        kind: ``plain`` leaves the job where BullMQ puts it.
        refusal: None: the script looks for room itself.
    """

    user: str
    kind: Kind
    max_waiting: int = 0
    max_active: int = 0
    refusal: Refusal | None = None

    @property
    def brief(self) -> bool:
        """Whether the script needs no more than the user: the case of most jobs, sent in fewer parts."""
        return self.kind == "now" and not self.max_waiting and not self.max_active and self.refusal is None


@cache
def _part(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def source(name: str, bullmq: Callable[[str], tuple[int, str]]) -> tuple[int, str]:
    """The number of keys and the text of a script of ours.

    Args:
        name: ``users:`` and the rest.
        bullmq: Gives both of one of BullMQ's scripts.
    """
    short = name.removeprefix(OURS)
    if short in _OWN:
        return _OWN[short], f"local base = ARGV[1]\n{_part('users.lua')}\n{_part(f'users_{short}.lua')}"
    keys, theirs = bullmq(short)
    if short == "addPrioritizedJob":
        theirs, found = _PLACING.subn(r"\1slot_of(jobId)\2", theirs)
        if found != 1:
            raise ConfigurationError(
                "This version of `bullmq` places a job with a priority in another way; install the version that "
                "Corral names."
            )
    wrapped = f"local slot_of\nlocal function bullmq()\n{theirs}\nend"
    return keys, f"local base = ARGV[4]\n{_part('users.lua')}\n{wrapped}\n{_part('users_add.lua')}"


__all__ = ["FIRST_SLOT", "OURS", "Kind", "Refusal", "Share", "source"]
