"""Looks on at every job: a span that goes on with the producer's trace, histograms and counters, fields for the logs.

The trace travels in BullMQ's telemetry field (``tm``) as ``bullmq-otel`` writes it: a JSON object of propagation
headers. So a trace that Node began goes on here, and the other way round. Without an OpenTelemetry SDK in the process
the API does nothing and costs next to nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from corral.interfaces.observability.logs import job_fields
from corral.queue.job import Job

_SECONDS: Final = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 15, 60, 180, 600, 1800)
_TRACE_BYTES: Final = 4096


@dataclass(slots=True)
class Attempt:
    """One attempt, while it runs."""

    result: Any = None
    interruption: str | None = None


class Telemetry:
    """Traces and metrics of one process; give it to ``corral.observer`` before workers are started.

    Args:
        registry: Of the metrics; None makes one.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._tracer = trace.get_tracer("corral")
        of = self.registry
        self._wait = Histogram(
            "corral_job_wait_seconds", "From being added to the first start.", ["queue"], buckets=_SECONDS, registry=of
        )
        self._run = Histogram(
            "corral_job_run_seconds", "Of one attempt.", ["queue", "outcome"], buckets=_SECONDS, registry=of
        )
        self._attempts = Counter("corral_attempts", "Attempts that ended here.", ["queue", "outcome"], registry=of)
        self._crashes = Counter("corral_job_crashes", "Workers found to have died with a job.", ["queue"], registry=of)
        self._lease_losses = Counter("corral_lease_losses", "Leases lost while a handler ran.", ["queue"], registry=of)
        self._running = Gauge("corral_running_jobs", "Handlers that run here now.", ["queue"], registry=of)
        self._tokens = Counter("corral_llm_tokens", "Of language models.", ["model", "direction"], registry=of)
        self._cost = Counter("corral_llm_cost_usd", "Of models whose price is known.", ["model"], registry=of)
        self._cache = Counter("corral_llm_requests", "Questions to models.", ["model", "cache"], registry=of)
        self._index = Gauge("corral_index_size", "Of the last indexing.", ["project", "what"], registry=of)

    def trace_context(self) -> str | None:
        """The current trace as a job carries it; None outside any."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return json.dumps(carrier) if carrier else None

    @contextmanager
    def running(self, job: Job[Any]) -> Iterator[Attempt]:
        """Surround one attempt."""
        attempt, begun, outcome = Attempt(), time.perf_counter(), "completed"
        if job.attempt == 1 and job.created_at is not None:
            self._wait.labels(job.job_type).observe(max(0.0, (datetime.now(UTC) - job.created_at).total_seconds()))
        if job.crashes:
            self._crashes.labels(job.job_type).inc()
        self._running.labels(job.job_type).inc()
        token = otel_context.attach(propagate.extract(_carrier(job.trace_context)))
        span = self._tracer.start_span(f"process {job.job_type}", kind=SpanKind.CONSUMER, attributes=_attributes(job))
        inner = otel_context.attach(trace.set_span_in_context(span))
        fields = job_fields.set(_fields(job, span))
        try:
            yield attempt
            self._count_result(attempt.result, job)
        except BaseException as error:
            outcome = attempt.interruption or ("interrupted" if isinstance(error, asyncio.CancelledError) else "failed")
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"[:500]))
            raise
        finally:
            job_fields.reset(fields)
            otel_context.detach(inner)
            otel_context.detach(token)
            span.set_attribute("corral.outcome", outcome)
            span.end()
            self._running.labels(job.job_type).dec()
            self._attempts.labels(job.job_type, outcome).inc()
            self._run.labels(job.job_type, outcome).observe(time.perf_counter() - begun)
            if outcome == "lease_lost":
                self._lease_losses.labels(job.job_type).inc()

    def _count_result(self, result: Any, job: Job[Any]) -> None:
        tokens, model = getattr(result, "tokens", None), getattr(result, "model", None)
        if tokens is not None and isinstance(model, str):
            self._tokens.labels(model, "input").inc(max(0, getattr(tokens, "input", 0)))
            self._tokens.labels(model, "output").inc(max(0, getattr(tokens, "output", 0)))
            self._cost.labels(model).inc(max(0.0, getattr(result, "cost_usd", None) or 0.0))
            hits, asked = getattr(result, "cache_hits", 0), getattr(result, "requests", 0)
            self._cache.labels(model, "hit").inc(max(0, hits))
            self._cache.labels(model, "miss").inc(max(0, asked - hits))
        chunks = getattr(result, "chunks", None)
        if isinstance(chunks, int):
            project = str(getattr(job.data, "project_id", ""))
            self._index.labels(project, "chunks").set(chunks)
            self._index.labels(project, "files").set(getattr(result, "files", 0))


def _carrier(trace_context: str | None) -> Mapping[str, str]:
    """The headers in a job's telemetry field, which anybody may have written."""
    if not trace_context or len(trace_context) > _TRACE_BYTES:
        return {}
    try:
        found = json.loads(trace_context)
    except ValueError:
        # A plain W3C traceparent, as some producers give.
        return {"traceparent": trace_context}
    return {str(k): v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _attributes(job: Job[Any]) -> dict[str, str | int]:
    return {
        "messaging.system": "bullmq",
        "messaging.operation.type": "process",
        "messaging.destination.name": job.job_type,
        "messaging.message.id": job.id,
        "corral.job.attempt": job.attempt,
        "corral.job.crashes": job.crashes,
    }


def _fields(job: Job[Any], span: trace.Span) -> dict[str, Any]:
    fields: dict[str, Any] = {"job_id": job.id, "job_type": job.job_type, "attempt": job.attempt}
    project = getattr(job.data, "project_id", None)
    if project is not None:
        fields["project_id"] = project
    if job.user_id is not None:
        fields["user_id"] = job.user_id
    context = span.get_span_context()
    if context.is_valid:
        fields["trace_id"] = f"{context.trace_id:032x}"
    return fields
