"""The public test kit: what tests of an application that uses Corral need.

Servers and networks:

- :class:`EmbeddedServer`: a real, private, throw-away Valkey, that can be stopped, killed, frozen and started again.
- :class:`EmbeddedCluster` and :class:`EmbeddedSentinels`: the same as a Cluster and as a Sentinel set.
- :class:`TcpProxy`: a network between a client and its server that can be cut, slowed and half-closed.

Handlers:

- :class:`RecordingReporter` and :func:`job_for`: call a handler directly, without Redis, and see what it reported.
- :func:`run_until_idle`: run workers until no job waits, then stop them.

Doubles, one for each port, which keep what they were asked:

- :class:`ScriptedModel`, :class:`ScriptedSandbox`, :class:`RecordingForge`, :class:`MemoryIndexStore`.

:mod:`corral.testing.pytest_plugin` has fixtures; ``pytest_plugins = ["corral.testing.pytest_plugin"]`` in a
``conftest.py`` brings them. Doubles are loaded when they are first used: their ports need the extras that they double.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from corral.testing.idle import run_until_idle
from corral.testing.proxy import TcpProxy
from corral.testing.reporter import RecordingReporter, job_for
from corral.testing.server import EmbeddedServer
from corral.testing.topology import EmbeddedCluster, EmbeddedSentinels

if TYPE_CHECKING:
    from corral.adapters.forge.recording import ForgeCall, RecordingForge
    from corral.adapters.index.memory import MemoryIndexStore
    from corral.adapters.llm.scripted import ScriptedModel
    from corral.adapters.sandbox.scripted import ScriptedProcess, ScriptedSandbox

_DOUBLES = {
    "ForgeCall": "corral.adapters.forge.recording",
    "MemoryIndexStore": "corral.adapters.index.memory",
    "RecordingForge": "corral.adapters.forge.recording",
    "ScriptedModel": "corral.adapters.llm.scripted",
    "ScriptedProcess": "corral.adapters.sandbox.scripted",
    "ScriptedSandbox": "corral.adapters.sandbox.scripted",
}

__all__ = [
    "EmbeddedCluster",
    "EmbeddedSentinels",
    "EmbeddedServer",
    "ForgeCall",
    "MemoryIndexStore",
    "RecordingForge",
    "RecordingReporter",
    "ScriptedModel",
    "ScriptedProcess",
    "ScriptedSandbox",
    "TcpProxy",
    "job_for",
    "run_until_idle",
]


def __getattr__(name: str) -> Any:
    home = _DOUBLES.get(name)
    if home is None:
        raise AttributeError(f"module 'corral.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
