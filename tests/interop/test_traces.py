"""One trace over both languages: Node's ``bullmq-otel`` on one side of the queue, Corral on the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.interop.conftest import QUEUE, corral_worker
from tests.interop.driver import NodeQueue

from corral import Corral
from corral.interfaces.observability.telemetry import Telemetry
from corral.queue.flow import Flow

PATIENCE = timedelta(seconds=20)


@pytest.fixture
def spans(corral: Corral, monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Corral's finished spans."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)  # the process' own may be set only once
    corral.observer = Telemetry()
    yield exporter
    provider.shutdown()


def ids(span: ReadableSpan) -> tuple[str, str]:
    """Trace and span, in hexadecimal."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


async def corrals_span(spans: InMemorySpanExporter, job_id: str) -> ReadableSpan:
    """The span of a job's attempt, once it has ended."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            for span in spans.get_finished_spans():
                if (span.attributes or {}).get("messaging.message.id") == job_id:
                    return span
            await asyncio.sleep(0.01)


async def nodes_spans(theirs: NodeQueue, trace_id: str, prefix: str, count: int = 1) -> list[dict[str, Any]]:
    """Node's spans of a trace whose names begin so, once there are that many."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            found = [span for span in await theirs("spans", trace=trace_id) if span["name"].startswith(prefix)]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)


async def test_trace_begun_by_node_goes_on_in_corral(
    corral: Corral, theirs: NodeQueue, spans: InMemorySpanExporter
) -> None:
    async with corral_worker(corral):
        job_id = str(await theirs("add", data={"n": 1}, traced=True))
        await corral.wait_for_result((QUEUE, job_id), timeout=PATIENCE)
        span = await corrals_span(spans, job_id)

    begun = await theirs("traceOf", job=job_id)
    trace_id, _ = ids(span)
    assert trace_id == begun["traceId"]
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == begun["spanId"]


async def test_trace_begun_by_corral_goes_on_in_node(
    corral: Corral, theirs: NodeQueue, spans: InMemorySpanExporter
) -> None:
    await theirs("startWorker", traced=True, opts={})
    with trace.get_tracer_provider().get_tracer("test").start_as_current_span("request") as request:
        job = await corral.add_job(QUEUE, {"n": 1})
    await corral.wait_for_result(job, timeout=PATIENCE)

    trace_id, span_id = ids(request)  # type: ignore[arg-type]
    (process,) = await nodes_spans(theirs, trace_id, "process")
    assert process["parent"] == span_id


async def test_flow_carries_the_trace_to_all_its_jobs(
    corral: Corral, theirs: NodeQueue, spans: InMemorySpanExporter
) -> None:
    await theirs("startWorker", traced=True, opts={})
    children = [Flow(job_type=QUEUE, data={"n": n}) for n in range(2)]
    with trace.get_tracer_provider().get_tracer("test").start_as_current_span("request") as request:
        flow = await corral.add_flow(Flow(job_type=QUEUE, data={"n": 2}, children=children))
    await corral.wait_for_result(flow, timeout=PATIENCE)

    trace_id, _ = ids(request)  # type: ignore[arg-type]
    assert len(await nodes_spans(theirs, trace_id, "process", 3)) == 3
