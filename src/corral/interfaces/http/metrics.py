"""``/metrics`` in Prometheus' text format: what this process saw, and what the queues hold now."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from starlette.responses import Response

from corral.interfaces.http.context import CallDep
from corral.interfaces.http.routes import Section, endpoint
from corral.interfaces.observability.telemetry import Telemetry
from corral.queue.history import oldest_waiting
from corral.wire.keys import QueueKeys

if TYPE_CHECKING:
    from corral.client import Corral

_STATES: Final = ("waiting", "active", "delayed", "completed", "failed", "waiting_children")
_TEXT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Metrics.", "content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}
}


def add_routes(section: Section) -> None:
    """Add the endpoint."""
    endpoint(section, "GET", "/metrics", get_metrics, scope="read", answers=None, more=_TEXT)


async def get_metrics(call: CallDep) -> Response:
    """Get the metrics of this process and the depths of the queues.

    The queues' figures are the same from every process: take them from one, or use `max`.
    """
    seen = call.corral.observer
    own = generate_latest(seen.registry) if isinstance(seen, Telemetry) else b""
    return Response(own + generate_latest(await _depths(call.corral)), media_type=CONTENT_TYPE_LATEST)


async def _depths(corral: Corral) -> CollectorRegistry:
    registry = CollectorRegistry()
    jobs = Gauge("corral_jobs", "Jobs by state.", ["queue", "state"], registry=registry)
    paused = Gauge("corral_queue_paused", "1 when the queue is paused.", ["queue"], registry=registry)
    oldest = Gauge("corral_oldest_waiting_seconds", "Age of the job next in turn; 0: none waits.", ["queue"],
                   registry=registry)  # fmt: skip
    names = sorted(corral.job_types)
    stats = await asyncio.gather(*(corral.get_queue_stats(name) for name in names))
    added = await asyncio.gather(*(oldest_waiting(corral.redis, QueueKeys(corral.prefix, name)) for name in names))
    for name, one, since in zip(names, stats, added, strict=True):
        for state in _STATES:
            jobs.labels(name, state).set(getattr(one, state))
        paused.labels(name).set(int(one.paused))
        oldest.labels(name).set(max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else 0)
    return registry
