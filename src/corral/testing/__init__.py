"""The public test kit: what tests of an application that uses Corral need.

- :class:`EmbeddedServer`: a real, private, throw-away Valkey, that can be stopped, killed, frozen and started again.
- :class:`EmbeddedCluster` and :class:`EmbeddedSentinels`: the same as a Cluster and as a Sentinel set.
- :class:`TcpProxy`: a network between a client and its server that can be cut, slowed and half-closed.
- :class:`RecordingReporter` and :func:`job_for`: call a handler directly, without Redis, and see what it reported.
- :mod:`corral.testing.pytest_plugin`: fixtures; ``pytest_plugins = ["corral.testing.pytest_plugin"]`` in a
  ``conftest.py`` brings them.
"""

from __future__ import annotations

from corral.testing.proxy import TcpProxy
from corral.testing.reporter import RecordingReporter, job_for
from corral.testing.server import EmbeddedServer
from corral.testing.topology import EmbeddedCluster, EmbeddedSentinels

__all__ = ["EmbeddedCluster", "EmbeddedSentinels", "EmbeddedServer", "RecordingReporter", "TcpProxy", "job_for"]
